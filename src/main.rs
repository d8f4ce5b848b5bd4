//! The command `resnet`: all of it is in [`resnet_by_hand::cli`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    resnet_by_hand::cli::run()
}
