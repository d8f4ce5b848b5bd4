//! `resnet oracle pack`.

use crate::cli::Result;
use crate::oracle::pack::{Level, folder};
use std::io::Write;
use std::path::PathBuf;

/// Write the backward conformance pack: inputs and expected results of every layer, as files
///
/// For systems where this program cannot run: .npz and .safetensors files, a JSON index with the
/// settings, the tolerances and the SHA-256 of every file, and a README.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Folder to write to, new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<()> {
    let mut counts = [0; 3];
    let written = folder::write(&args.out, |case| {
        counts[match case.level() {
            Level::Layer => 0,
            Level::Block => 1,
            Level::Network => 2,
        }] += 1;
    })?;
    let [layers, blocks, networks] = counts;
    writeln!(out, "{} cases: {layers} of layers and SGD, {blocks} of blocks, {networks} of networks", written.cases)?;
    let megabytes = written.bytes as f64 / 1e6;
    writeln!(out, "wrote  {}: {} files, {megabytes:.0} MB; start with README.md", args.out.display(), written.files)?;
    Ok(())
}
