//! The cases that are not run, each with its reason. A reason is checked against the model, so it cannot hide a failing case.

use super::cases::Case;

/// Why a case is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    ThreeDimensional,
    ClassWeights,
    DilatedAverage,
    PaddingNotCounted,
    TransposedBias,
    UnpoolOutputShape,
    TooLarge,
}

impl Reason {
    /// The text in `docs/onnx.md`.
    pub fn text(self) -> &'static str {
        match self {
            Reason::ThreeDimensional => "three-dimensional windows; the layers have two dimensions",
            Reason::ClassWeights => "the loss has no class weights",
            Reason::DilatedAverage => "the average pool has no dilation (nor has PyTorch's)",
            Reason::PaddingNotCounted => {
                "padding of more than half the window, which is rejected (as in PyTorch) and cannot be added to the \
                 image in advance, because it is not counted"
            }
            Reason::TransposedBias => "a bias after the transposed convolution; dx of a convolution has none",
            Reason::UnpoolOutputShape => "an output larger than the shape that its indices refer to",
            Reason::TooLarge => "more than 200,000 elements: left out of the fixture only because of its size",
        }
    }

    /// Whether it is true for the case.
    pub fn holds(self, case: &Case) -> bool {
        let op = case.node.op.as_str();
        let windows = matches!(op, "AveragePool" | "Conv" | "ConvTranspose" | "MaxPool");
        match self {
            Reason::ThreeDimensional => windows && case.shapes[0].as_ref().is_some_and(|shape| shape.len() == 5),
            Reason::ClassWeights => op == "SoftmaxCrossEntropyLoss" && case.node.inputs.len() == 3,
            Reason::DilatedAverage => {
                op == "AveragePool" && case.ints("dilations").is_some_and(|dilations| dilations.iter().any(|&d| d != 1))
            }
            Reason::PaddingNotCounted => {
                let (pads, kernel) = (case.ints("pads").unwrap_or_default(), case.ints("kernel_shape").unwrap());
                let beyond = pads.iter().zip(kernel.iter().cycle()).any(|(&pad, &kernel)| pad > kernel / 2);
                op == "AveragePool" && case.int("count_include_pad", 0) == 0 && beyond
            }
            Reason::TransposedBias => op == "ConvTranspose" && case.node.inputs.len() == 3,
            Reason::UnpoolOutputShape => op == "MaxUnpool" && case.node.inputs.len() == 3,
            Reason::TooLarge => case.numbers > 200_000 && case.data.is_none(),
        }
    }
}

/// Every case left out.
pub const LEFT_OUT: &[(&str, Reason)] = &[
    ("node/averagepool_2d_dilations", Reason::DilatedAverage),
    ("node/averagepool_2d_pads", Reason::PaddingNotCounted),
    ("node/averagepool_3d_default", Reason::ThreeDimensional),
    ("node/averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_False", Reason::ThreeDimensional),
    ("node/averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_True", Reason::ThreeDimensional),
    ("node/averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_False", Reason::ThreeDimensional),
    ("node/averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True", Reason::ThreeDimensional),
    ("node/averagepool_3d_dilations_small", Reason::ThreeDimensional),
    ("node/convtranspose_3d", Reason::ThreeDimensional),
    ("node/maxpool_3d_default", Reason::ThreeDimensional),
    ("node/maxpool_3d_dilations", Reason::ThreeDimensional),
    ("node/maxpool_3d_dilations_use_ref_impl", Reason::ThreeDimensional),
    ("node/maxpool_3d_dilations_use_ref_impl_large", Reason::ThreeDimensional),
    ("node/maxunpool_export_with_output_shape", Reason::UnpoolOutputShape),
    ("node/sce_NCd1_mean_weight_negative_ii", Reason::ClassWeights),
    ("node/sce_NCd1_mean_weight_negative_ii_log_prob", Reason::ClassWeights),
    ("node/sce_NCd1d2d3_sum_weight_high_ii", Reason::ClassWeights),
    ("node/sce_NCd1d2d3_sum_weight_high_ii_log_prob", Reason::ClassWeights),
    ("node/sce_NCd1d2d3d4d5_mean_weight", Reason::ClassWeights),
    ("node/sce_NCd1d2d3d4d5_mean_weight_log_prob", Reason::ClassWeights),
    ("node/sce_mean_weight", Reason::ClassWeights),
    ("node/sce_mean_weight_ii", Reason::ClassWeights),
    ("node/sce_mean_weight_ii_3d", Reason::ClassWeights),
    ("node/sce_mean_weight_ii_3d_log_prob", Reason::ClassWeights),
    ("node/sce_mean_weight_ii_4d", Reason::ClassWeights),
    ("node/sce_mean_weight_ii_4d_log_prob", Reason::ClassWeights),
    ("node/sce_mean_weight_ii_log_prob", Reason::ClassWeights),
    ("node/sce_mean_weight_log_prob", Reason::ClassWeights),
    ("node/sce_none_weights", Reason::ClassWeights),
    ("node/sce_none_weights_log_prob", Reason::ClassWeights),
    ("pytorch-converted/AvgPool3d", Reason::ThreeDimensional),
    ("pytorch-converted/AvgPool3d_stride", Reason::ThreeDimensional),
    ("pytorch-converted/AvgPool3d_stride1_pad0_gpu_input", Reason::ThreeDimensional),
    ("pytorch-converted/Conv3d", Reason::ThreeDimensional),
    ("pytorch-converted/Conv3d_dilated", Reason::ThreeDimensional),
    ("pytorch-converted/Conv3d_dilated_strided", Reason::ThreeDimensional),
    ("pytorch-converted/Conv3d_groups", Reason::ThreeDimensional),
    ("pytorch-converted/Conv3d_no_bias", Reason::ThreeDimensional),
    ("pytorch-converted/Conv3d_stride", Reason::ThreeDimensional),
    ("pytorch-converted/Conv3d_stride_padding", Reason::ThreeDimensional),
    ("pytorch-converted/ConvTranspose2d", Reason::TransposedBias),
    ("pytorch-converted/MaxPool1d_stride_padding_dilation", Reason::TooLarge),
    ("pytorch-converted/MaxPool2d_stride_padding_dilation", Reason::TooLarge),
    ("pytorch-converted/MaxPool3d", Reason::ThreeDimensional),
    ("pytorch-converted/MaxPool3d_stride", Reason::ThreeDimensional),
    ("pytorch-converted/MaxPool3d_stride_padding", Reason::ThreeDimensional),
    ("pytorch-operator/operator_conv", Reason::TooLarge),
];
