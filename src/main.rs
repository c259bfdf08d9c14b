//! The `convoy` binary: hands the command line to [`convoy::cli`] and turns its outcome into an exit code.

fn main() -> std::process::ExitCode {
    convoy::cli::main()
}
