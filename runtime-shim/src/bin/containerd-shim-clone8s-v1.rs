//! containerd's shim of our pods, as a program of its own: it starts with every pod, and the smaller it is the less a
//! pod costs.

fn main() -> std::process::ExitCode {
    clone8s_task_shim::main()
}
