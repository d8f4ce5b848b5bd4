//! The programs of the book: each prints the numbers of a page, and most draw its figure.
//!
//! ```text
//! cargo run --release --example book                                lists them
//! cargo run --release --example book -- chain_rule                  runs one
//! cargo run --release --example book -- chain_rule chain_rule.svg   draws its figure too
//! ```
//!
//! Each is a file beside this one, with a `main` of its own, to be read alone. They are one program because the layers are
//! generic: a crate that uses them compiles them, and this one does so once for all.

mod augmentation;
mod batch_norm_three_paths;
mod chain_rule;
mod convolution_on_5x5;
#[cfg(feature = "formats")]
mod degradation;
mod error_against_h;
mod family;
mod figure;
mod filter_on_a_photograph;
mod first_network;
mod initialisation;
mod inspect_block;
#[cfg(feature = "formats")]
mod layer_responses;
mod linear;
mod overfit_one_batch;
#[cfg(feature = "formats")]
mod pictures;
mod playable_values;
mod pooling_on_4x4;
mod reading_results;
#[cfg(feature = "formats")]
mod resnet20_on_one_page;
mod sanity_ladder;
mod schedules;
mod softmax;
mod stem_on_small_images;
mod two_linear_layers;
mod vanishing_gradient;
mod without_batch_norm;

use resnet_by_hand::error::nearest;
use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

/// In place of those that read or write files of other programs.
#[cfg(not(feature = "formats"))]
mod needs_formats {
    pub fn main() -> Result<(), Box<dyn std::error::Error>> {
        Err("this program needs the feature `formats`: run it without `--no-default-features`".into())
    }
}
#[cfg(not(feature = "formats"))]
use {
    needs_formats as degradation, needs_formats as layer_responses, needs_formats as pictures,
    needs_formats as resnet20_on_one_page,
};

/// Its name, its page in `docs/`, what it shows, its arguments, its main function.
type Program = (&'static str, &'static str, &'static str, &'static str, fn() -> Result<(), Box<dyn Error>>);

macro_rules! programs {
    ($($name:ident, $page:literal, $shows:literal, $arguments:expr;)*) => {
        &[$((stringify!($name), $page, $shows, $arguments, $name::main)),*]
    };
}

const FIGURE: &str = "[FIGURE.svg]";
const NONE: &str = "";

const PROGRAMS: &[Program] = programs! {
    resnet20_on_one_page, "what_we_do", "a photograph, the whole of ResNet-20, ten scores", FIGURE;
    chain_rule, "chain_rule", "three functions, one neuron, gradient descent", FIGURE;
    error_against_h, "checking_gradients", "differences, their errors, what a check can miss", FIGURE;
    linear, "linear", "the layer on two inputs of three values", FIGURE;
    two_linear_layers, "relu", "why a network needs a non-linearity", FIGURE;
    softmax, "softmax_cross_entropy", "from scores to probabilities, loss and gradient", FIGURE;
    first_network, "first_network", "two linear layers learn from photographs", FIGURE;
    filter_on_a_photograph, "conv2d", "one convolution, two edge filters", FIGURE;
    convolution_on_5x5, "conv2d", "one 3x3 filter, forward and backward", FIGURE;
    pooling_on_4x4, "pooling", "three kinds of pooling, forward and backward", FIGURE;
    without_batch_norm, "batch_norm", "one network with and without batch norm", FIGURE;
    batch_norm_three_paths, "batch_norm", "one x reaches the loss on three paths", FIGURE;
    initialisation, "initialisation", "the scale of values and gradients with depth", FIGURE;
    degradation, "residual_block", "deeper is worse, unless the input is added", "[FIGURE.svg | train DATA [FOLDER]]";
    vanishing_gradient, "residual_block", "gradient norms, plain and residual, depth 8 to 110", FIGURE;
    layer_responses, "residual_block", "how strong the response of each layer is", "[FIGURE.svg | measure FOLDER]";
    inspect_block, "residual_block", "one photograph, one block, every value", FIGURE;
    family, "family", "every layer of ResNet-20, and the family", FIGURE;
    schedules, "sgd", "every schedule of the learning rate", FIGURE;
    augmentation, "augmentation", "from photographs to batches", FIGURE;
    overfit_one_batch, "training_a_network", "a network that memorises ten images", NONE;
    sanity_ladder, "training_a_network", "nine mistakes, and the signs of each", FIGURE;
    reading_results, "reading_results", "what an accuracy says", FIGURE;
    stem_on_small_images, "known_errors", "an ImageNet stem on 32x32 images", "[CIFAR10]";
    pictures, "data", "writes a folder of pictures, for `--data`", "FOLDER [CLASS...]";
    playable_values, "README", "the values with which docs/play/test.mjs tests", NONE;
};

fn main() -> ExitCode {
    let arguments: Result<Vec<String>, OsString> = std::env::args_os().skip(1).map(OsString::into_string).collect();
    let arguments = arguments.unwrap_or_else(|argument| wrong_usage(&format!("{argument:?} is not Unicode")));
    let Some((name, arguments)) = arguments.split_first() else { wrong_usage("expected the name of a program") };
    if ["help", "--help", "-h"].contains(&name.as_str()) {
        print!("{}", help());
        return ExitCode::SUCCESS;
    }
    let Some((.., expected, main)) = PROGRAMS.iter().find(|program| program.0 == name) else {
        let near = nearest(name, PROGRAMS.iter().map(|program| program.0));
        let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        wrong_usage(&format!("there is no program `{name}`{hint}"));
    };
    let fit = match *expected {
        NONE => arguments.is_empty(),
        FIGURE => figure::is_path(arguments),
        _ => true,
    };
    if !fit {
        wrong_arguments();
    }
    match main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What follows the name of the program on the command line.
fn arguments() -> Vec<String> {
    std::env::args().skip(2).collect()
}

/// Ends a program that was given other arguments than it has.
fn wrong_arguments() -> ! {
    let (name, given) = (std::env::args().nth(1).unwrap_or_default(), arguments().join(" "));
    let expected = PROGRAMS.iter().find(|program| program.0 == name).map_or(NONE, |program| program.3);
    let [expected, given] = [expected, &given].map(|text| if text.is_empty() { "no arguments" } else { text });
    eprintln!("error: `{name}` expects {expected}, got {given}");
    std::process::exit(2)
}

fn wrong_usage(error: &str) -> ! {
    eprint!("error: {error}\n\n{}", help());
    std::process::exit(2)
}

fn help() -> String {
    let line = |(name, page, shows, ..): &Program| format!("  {name:<23} {shows:<50} docs/{page}.md\n");
    format!(
        "The programs of the book\n\nUsage: cargo run --release --example book -- NAME [FIGURE.svg]\n\n{}",
        PROGRAMS.iter().map(line).collect::<String>()
    )
}
