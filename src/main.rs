//! The `coracle` command: arguments in, exit code out.

fn main() -> std::process::ExitCode {
    coracle::cli::main()
}
