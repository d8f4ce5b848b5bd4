//! The command `resnet`.
fn main() {}
