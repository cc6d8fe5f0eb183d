//! The `coracle` command: arguments in, exit code out.

/// Objects are trees of small allocations, made and dropped by every request on every thread: the system's
/// allocator was a quarter of the server's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    coracle::cli::main()
}
