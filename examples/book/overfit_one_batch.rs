//! Trains on ten images until the network has memorised them.
//!
//! `cargo run --release --example book -- overfit_one_batch`
//!
//! The first test of a new network, a new layer or a new backward pass. With ten images only a mistake can keep the
//! loss from going to zero: not too little data, not too small a model, not bad luck. If the loss stays high, a
//! gradient is wrong, a label belongs to another image, or the learning rate is wrong by orders of magnitude.
//!
//! What to look at: the first loss. An untrained network gives every class about 1/10, so its loss is about 2.303,
//! which is ln 10; here it is 2.345. Then the loss falls, each # a factor of 1.25: 0.69 after 10 steps, 0.027 after 25,
//! 0.0012 after 100, when the gradient's norm has gone from 1.7 to 0.004. From step 10 on all ten are classified
//! correctly.
//!
//! What it does not show: small mistakes. Without the last term of batch norm's dx (`dy - mean_dy` alone) the loss
//! still ends at 0.0079 and this program reports success. `verify` finds such mistakes, see docs/checking_gradients.md.

use resnet_by_hand::data::{Normalization, embedded};
use resnet_by_hand::layers::{Mode, SoftmaxCrossEntropy};
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::optim::{Sgd, SgdConfig};

const STEPS: usize = 100;
const LR: f64 = 0.05;
const ENOUGH: f32 = 0.01;

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Ten images, one of each class: the embedded subset is interleaved by class.
    let batch = embedded::load().train.subset(&(0..10).collect::<Vec<_>>())?;
    let images = Normalization::CIFAR10.apply::<f32>(batch.pixels.view())?;
    let labels: Vec<usize> = batch.labels.iter().map(|&label| label.into()).collect();

    let mut model = ResNet::<f32>::new(&Architecture::by_name("resnet8")?, 1)?;
    // No weight decay: the aim is to fit, not to generalise.
    let mut sgd = Sgd::new(SgdConfig { weight_decay: 0.0, ..SgdConfig::default() })?;
    let loss_layer = SoftmaxCrossEntropy::new();

    let mut last = f32::INFINITY;
    println!("step   loss      right  gradient");
    for step in 0..=STEPS {
        let (logits, cache) = model.forward(&images, Mode::Train)?;
        let (loss, loss_cache) = loss_layer.forward(&logits, &labels)?;
        model.update_running_statistics(&cache);
        let gradients = model.parameter_gradients(&loss_layer.backward(&loss_cache), cache)?;
        sgd.step(&mut model, &gradients, LR)?;

        if step % 5 == 0 {
            let p = &loss_cache.probabilities;
            let right = labels.iter().enumerate().filter(|&(n, &t)| p.row(n).iter().all(|&other| other <= p[[n, t]]));
            // One # for each factor of 1.25 above 1e-4.
            let bar = "#".repeat(((loss.max(1e-4) / 1e-4).ln() / 1.25f32.ln()) as usize);
            println!("{step:>4}   {loss:.6}  {:>2}/10  {:.1e}  {bar}", right.count(), gradients.norm());
        }
        last = loss;
    }
    if last < ENOUGH {
        println!("loss {last:.6} after {STEPS} steps: memorised");
        return Ok(());
    }
    Err(format!("loss {last:.6} after {STEPS} steps, expected less than {ENOUGH}: something is wrong").into())
}
