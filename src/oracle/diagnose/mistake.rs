//! The list of the classic mistakes: their names, and what is wrong and what is right.

/// A classic mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "`Mistake::explanation` says what each is")]
pub enum Mistake {
    RunningVariance,
    MomentumComplement,
    NormalizesUnbiased,
    EpsOutsideRoot,
    StatisticsPerSample,
    StatisticsConstant,
    StatisticsOfEvaluation,
    StrideOnOtherConvolution,
    InputNhwc,
    ChannelsReversed,
    WeightHwio,
    KernelFlipped,
    KernelTransposed,
    PaddingIgnored,
    ReluGradientAtZero,
    LeakySlope,
    PaddingInAverage,
    NoResidual,
    NoShortcutGradient,
    LossSummed,
    LossAveraged,
    GradientTimesBatch,
    GradientOverBatch,
    ParametersTimesBatch,
    ParametersOverBatch,
    UpstreamOnes,
    DecayDecoupled,
    NoDecay,
    Nesterov,
}

impl Mistake {
    /// Every mistake, the more specific before the more general.
    pub const ALL: [Mistake; 29] = [
        Mistake::RunningVariance,
        Mistake::MomentumComplement,
        Mistake::NormalizesUnbiased,
        Mistake::EpsOutsideRoot,
        Mistake::StatisticsPerSample,
        Mistake::StatisticsConstant,
        Mistake::StatisticsOfEvaluation,
        Mistake::StrideOnOtherConvolution,
        Mistake::InputNhwc,
        Mistake::ChannelsReversed,
        Mistake::WeightHwio,
        Mistake::KernelFlipped,
        Mistake::KernelTransposed,
        Mistake::PaddingIgnored,
        Mistake::ReluGradientAtZero,
        Mistake::LeakySlope,
        Mistake::PaddingInAverage,
        Mistake::NoResidual,
        Mistake::NoShortcutGradient,
        Mistake::LossSummed,
        Mistake::LossAveraged,
        Mistake::GradientTimesBatch,
        Mistake::GradientOverBatch,
        Mistake::ParametersTimesBatch,
        Mistake::ParametersOverBatch,
        Mistake::UpstreamOnes,
        Mistake::DecayDecoupled,
        Mistake::NoDecay,
        Mistake::Nesterov,
    ];

    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Mistake::RunningVariance => "running-variance",
            Mistake::MomentumComplement => "momentum-complement",
            Mistake::NormalizesUnbiased => "normalizes-unbiased",
            Mistake::EpsOutsideRoot => "eps-outside-root",
            Mistake::StatisticsPerSample => "statistics-per-sample",
            Mistake::StatisticsConstant => "statistics-constant",
            Mistake::StatisticsOfEvaluation => "statistics-of-evaluation",
            Mistake::StrideOnOtherConvolution => "stride-on-other-convolution",
            Mistake::InputNhwc => "input-nhwc",
            Mistake::ChannelsReversed => "channels-reversed",
            Mistake::WeightHwio => "weight-hwio",
            Mistake::KernelFlipped => "kernel-flipped",
            Mistake::KernelTransposed => "kernel-transposed",
            Mistake::PaddingIgnored => "padding-ignored",
            Mistake::ReluGradientAtZero => "relu-gradient-at-zero",
            Mistake::LeakySlope => "leaky-slope",
            Mistake::PaddingInAverage => "padding-in-average",
            Mistake::NoResidual => "no-residual",
            Mistake::NoShortcutGradient => "no-shortcut-gradient",
            Mistake::LossSummed => "loss-summed",
            Mistake::LossAveraged => "loss-averaged",
            Mistake::GradientTimesBatch => "gradient-times-batch",
            Mistake::GradientOverBatch => "gradient-over-batch",
            Mistake::ParametersTimesBatch => "parameters-times-batch",
            Mistake::ParametersOverBatch => "parameters-over-batch",
            Mistake::UpstreamOnes => "upstream-ones",
            Mistake::DecayDecoupled => "decay-decoupled",
            Mistake::NoDecay => "no-decay",
            Mistake::Nesterov => "nesterov",
        }
    }

    /// What is done wrong, and what is right.
    pub fn explanation(self) -> &'static str {
        match self {
            Mistake::RunningVariance => {
                "the running variance is updated with the biased variance Σ(x − mean)²/m; PyTorch uses the unbiased one, /(m − 1) \
                 (normalisation itself uses the biased one)"
            }
            Mistake::MomentumComplement => {
                "running ← momentum · running + (1 − momentum) · batch; PyTorch's momentum is the weight of the new value"
            }
            Mistake::NormalizesUnbiased => {
                "x̂ is computed with the unbiased variance, /(m − 1); batch norm uses the biased one, /m"
            }
            Mistake::EpsOutsideRoot => "x̂ = (x − mean)/(√var + eps); eps belongs under the root",
            Mistake::StatisticsPerSample => {
                "mean and variance are computed per image (instance norm); batch norm computes them over the whole batch"
            }
            Mistake::StatisticsConstant => {
                "the backward pass of the batch norm treats mean and variance as constants; in training they depend on x"
            }
            Mistake::StatisticsOfEvaluation => {
                "in training the batch norm normalises with the running statistics; it must use those of the batch"
            }
            Mistake::StrideOnOtherConvolution => {
                "the bottleneck's stride is on the other convolution: torchvision (v1.5) has it on the 3x3, the paper (v1) on \
                 the first 1x1"
            }
            Mistake::InputNhwc => "the input is stored as (N, C, H, W) but read as (N, H, W, C)",
            Mistake::ChannelsReversed => "the channels of the input are reversed, BGR instead of RGB",
            Mistake::WeightHwio => "the weight is stored as (O, I, kh, kw) but read as (kh, kw, I, O)",
            Mistake::KernelFlipped => {
                "the kernel is rotated by 180 degrees, a convolution in the mathematical sense; conv2d is a cross-correlation"
            }
            Mistake::KernelTransposed => "height and width of the kernel are exchanged",
            Mistake::PaddingIgnored => "the padding is missing",
            Mistake::ReluGradientAtZero => {
                "the gradient passes where the ReLU's input is exactly 0; PyTorch's is 0 there"
            }
            Mistake::LeakySlope => "the slope of the leaky ReLU is 0.1 or 0.01, not the given one",
            Mistake::PaddingInAverage => {
                "the average pool divides by the wrong count: with or without the padding (count_include_pad)"
            }
            Mistake::NoResidual => "the shortcut is not added",
            Mistake::NoShortcutGradient => {
                "the gradient does not flow back through the shortcut; an addition passes it to both inputs"
            }
            Mistake::LossSummed => "the loss is the sum over the batch instead of the mean",
            Mistake::LossAveraged => "the loss is the mean over the batch instead of the sum",
            Mistake::GradientTimesBatch => {
                "gradients are too large by a factor of N, the batch size: backward omits the mean's 1/N"
            }
            Mistake::GradientOverBatch => {
                "gradients are too small by a factor of N, the batch size: divided by N once too often"
            }
            Mistake::ParametersTimesBatch => {
                "gradients of the parameters, not those of the input, are too large by a factor of N, the batch size; the mean's \
                 1/N is in the gradient of the loss already, and is not taken out again"
            }
            Mistake::ParametersOverBatch => {
                "gradients of the parameters, not those of the input, are divided by N, the batch size, a second time: a layer \
                 adds over the images, and the mean's 1/N is in the gradient of the loss"
            }
            Mistake::UpstreamOnes => {
                "backward ignores the gradient of its result, as if it were 1 everywhere; it must multiply by it"
            }
            Mistake::DecayDecoupled => {
                "weight decay is subtracted from the parameter directly (as in AdamW); PyTorch's SGD adds it to the gradient"
            }
            Mistake::NoDecay => "weight decay is missing",
            Mistake::Nesterov => "the step uses Nesterov momentum instead of plain momentum",
        }
    }

    /// The operation it is made in, as in [`OPERATIONS`](crate::oracle::mutants::OPERATIONS).
    pub(in crate::oracle) fn operation(self) -> &'static str {
        match self {
            Mistake::RunningVariance
            | Mistake::MomentumComplement
            | Mistake::NormalizesUnbiased
            | Mistake::EpsOutsideRoot
            | Mistake::StatisticsPerSample
            | Mistake::StatisticsConstant
            | Mistake::StatisticsOfEvaluation => "batch_norm",
            Mistake::StrideOnOtherConvolution
            | Mistake::InputNhwc
            | Mistake::ChannelsReversed
            | Mistake::WeightHwio
            | Mistake::KernelFlipped
            | Mistake::KernelTransposed
            | Mistake::PaddingIgnored
            | Mistake::ParametersTimesBatch
            | Mistake::ParametersOverBatch
            | Mistake::UpstreamOnes => "conv2d",
            Mistake::ReluGradientAtZero => "relu",
            Mistake::LeakySlope => "leaky_relu",
            Mistake::PaddingInAverage => "avg_pool",
            Mistake::NoResidual | Mistake::NoShortcutGradient => "add",
            Mistake::LossSummed | Mistake::LossAveraged | Mistake::GradientTimesBatch | Mistake::GradientOverBatch => {
                "softmax_cross_entropy"
            }
            Mistake::DecayDecoupled | Mistake::NoDecay | Mistake::Nesterov => "sgd",
        }
    }
}
