//! The `exofed` program.

fn main() -> std::process::ExitCode {
    exo_federation::cli::run()
}
