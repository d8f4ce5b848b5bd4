//! The exercises, in the order of the book. Each has a folder:
//!
//! - `exercise.rs`, the learner's file with a solution; `run.rs` calls its functions;
//! - `hints.txt`; and `wrong.txt`, classic mistakes as changes of the solution, under the name that each must be given;
//! - `mod.rs`: inputs, what is right, and the mistakes that the grader tries.

use crate::lesson::Lesson;

pub use resnet8::reference;

macro_rules! exercises {
    ($($name:ident $page:literal $title:literal $(then $training:expr)?;)+) => {
        $(mod $name;)+

        /// Every exercise.
        pub static LESSONS: &[Lesson] = &[$(Lesson {
            name: stringify!($name),
            title: $title,
            page: $page,
            text: include_str!(concat!(stringify!($name), "/exercise.rs")),
            run: include_str!(concat!(stringify!($name), "/run.rs")),
            hints: include_str!(concat!(stringify!($name), "/hints.txt")),
            wrong: include_str!(concat!(stringify!($name), "/wrong.txt")),
            cases: $name::cases,
            right: $name::right,
            mistakes: $name::mistakes,
            training: &[$($training)?],
        }),+];
    };
}

exercises! {
    chain_rule "chain_rule.md" "the gradients of one neuron";
    finite_differences "checking_gradients.md" "measure a gradient";
    linear "linear.md" "forward and backward of a linear layer";
    relu "relu.md" "forward and backward of a ReLU";
    softmax_cross_entropy "softmax_cross_entropy.md" "the loss and its gradient";
    conv2d_forward "conv2d.md" "the sums of a convolution";
    conv2d_input_gradient "conv2d.md" "dx of a convolution";
    conv2d_weight_gradient "conv2d.md" "dweight and dbias of a convolution";
    im2col "conv2d.md" "a convolution as one matrix product";
    max_pool "pooling.md" "forward and backward of a max pool";
    batch_norm_forward "batch_norm.md" "batch norm in training and evaluation";
    batch_norm_backward "batch_norm.md" "the three gradients of a batch norm";
    residual_block "residual_block.md" "a block with a shortcut";
    sgd "sgd.md" "a step with momentum and weight decay";
    training_loop "training_a_network.md" "epochs, batches and evaluation";
    resnet8 "family.md" "a ResNet of your own layers, trained on photographs" then resnet8::training;
}
