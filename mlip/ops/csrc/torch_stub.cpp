// An empty library with the name of torch's own, to link against where torch is not installed: at run time the loader
// finds libtorch_cpu.so in the process.
