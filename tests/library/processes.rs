//! The bits of a pass and of a training run depend on the number of shards, and not on who computes them: threads of this
//! process, each with a part of the shards, exchange values as processes do.

use crate::processes::threads;
use ndarray::{Array1, Array2, Array4, s};
use rand::RngExt as _;
use resnet_by_hand::data::{Augmentation, embedded};
use resnet_by_hand::engine::{Algorithm, Engine};
use resnet_by_hand::layers::{BatchNorm2d, Mode};
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::parameters::{Parameters as _, fingerprint};
use resnet_by_hand::processes::Alone;
use resnet_by_hand::rng::{Purpose, stream};
use resnet_by_hand::shards::Shards;
use resnet_by_hand::train::metrics::evaluate_among;
use resnet_by_hand::train::{EpochMetrics, EvaluationOptions, Prediction, Recipe, Reference, Trainer};
use std::num::NonZeroUsize;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

/// Everything that a pass computes: the bits of the logits and of dx of one process, those of the gradients and of the running
/// statistics.
#[derive(Debug, PartialEq)]
struct Bits {
    logits: Vec<u32>,
    dx: Vec<u32>,
    gradients: Vec<u32>,
    model: Vec<u32>,
}

fn bits<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<u32> {
    values.into_iter().map(|value| value.to_bits()).collect()
}

fn grouped(mut model: ResNet<f32>, group: usize) -> ResNet<f32> {
    model.norms_mut().into_iter().for_each(|bn| bn.group = NonZeroUsize::new(group));
    model
}

/// A pass over n images in `count` shards and, if `group` is not 0, groups of so many images.
fn pass(
    name: &str,
    [n, count, group]: [usize; 3],
    size: [usize; 2],
    algorithm: Algorithm,
    processes: usize,
) -> Vec<Bits> {
    let model = grouped(ResNet::new(&Architecture::by_name(name).unwrap().with_classes(10), 1).unwrap(), group);
    let mut rng = stream(3, Purpose::Verify, &[]);
    let x = Array4::from_shape_simple_fn((n, size[0], size[1], 3), || rng.random_range(-1.0f32..1.0));
    let dlogits = Array2::from_shape_simple_fn((n, 10), || rng.random_range(-1.0f32..1.0));
    threads::run(processes, 2, |communicator| {
        let (engine, mut model) = (Engine::new(algorithm), model.clone());
        let shards = Shards::new(n, count, communicator);
        let own = shards.own();
        let x = x.slice(s![own.clone(), .., .., ..]).to_owned().into_shared();
        let (logits, cache) = engine.forward_shards(&model, &x, &shards).unwrap();
        engine.update_running_statistics(&mut model, &cache);
        let (dx, gradients) = engine.backward(&model, &dlogits.slice(s![own, ..]).to_owned(), cache).unwrap();
        let mut all = Vec::new();
        model.visit("", &mut |_, _, tensor| all.extend(bits(tensor.iter())));
        let gradients = gradients.iter().flat_map(|(_, gradient)| bits(gradient)).collect();
        Bits { logits: bits(&logits), dx: bits(&dx), gradients, model: all }
    })
}

/// Every kind of network; shards of equal and of different length; fewer images than shards, so that some processes have
/// none; all algorithms; groups of images.
#[test]
fn a_pass_has_the_same_bits_for_every_number_of_processes() {
    use Algorithm::{Auto, Gemm, Indirect, Winograd2, Winograd4};
    let cases: [(_, _, _, _, &[usize]); 13] = [
        ("resnet8", [16, 8, 0], [12, 12], Auto, &[2, 3, 8]),
        ("resnet8", [13, 8, 0], [9, 11], Winograd4, &[5]),
        ("resnet8", [7, 4, 0], [20, 18], Winograd2, &[3]),
        ("resnet8", [11, 4, 0], [9, 7], Gemm, &[2]),
        ("resnet8", [3, 8, 0], [8, 8], Indirect, &[2, 8]),
        ("resnet18-cifar", [9, 8, 0], [8, 8], Auto, &[2, 8]),
        ("resnet50-cifar", [4, 4, 0], [9, 9], Auto, &[3]),
        ("resnext50_32x4d", [4, 2, 0], [33, 33], Auto, &[2]),
        ("preact110", [5, 4, 0], [8, 8], Auto, &[3]),
        ("resnet8", [32, 8, 2], [12, 12], Auto, &[2, 3, 5, 8]),
        // Shards of 3 and 4 images in groups of 1 and 2.
        ("resnet8", [26, 8, 2], [9, 11], Gemm, &[3]),
        ("resnet50-cifar", [4, 2, 2], [9, 9], Auto, &[2]),
        ("preact110", [4, 4, 1], [8, 8], Auto, &[3]),
    ];
    for (name, batch, size, algorithm, processes) in cases {
        let alone = pass(name, batch, size, algorithm, 1).remove(0);
        for &processes in processes {
            let case = format!("{name}, {batch:?}, {processes} processes");
            let all = pass(name, batch, size, algorithm, processes);
            let [logits, dx] = [|bits: &Bits| bits.logits.clone(), |bits: &Bits| bits.dx.clone()]
                .map(|part| all.iter().flat_map(part).collect::<Vec<_>>());
            assert!(logits == alone.logits, "logits of {case}");
            assert!(dx == alone.dx, "dx of {case}");
            for bits in &all {
                assert!(bits.model == alone.model, "running statistics of {case}");
                assert!(bits.gradients == alone.gradients, "gradients of {case}");
            }
        }
    }
    // Another number of shards is another order of sums.
    let [one, four] = [1, 4].map(|shards| pass("resnet8", [8, shards, 0], [8, 8], Auto, 1).remove(0).gradients);
    assert!(one != four);
}

/// One group of all images is batch norm, bit for bit, and groups of fewer are not.
#[test]
fn one_group_of_the_whole_batch_changes_nothing() {
    let of = |group| pass("resnet8", [8, 1, group], [8, 8], Algorithm::Auto, 1).remove(0);
    assert!(of(8) == of(0) && of(9) == of(0));
    assert!(of(4) != of(0));
}

/// Where a group is a shard, a pass over the batch is one over each shard by itself: the same logits and gradients of the
/// images, and the sums of the gradients of the parameters. The running statistics are the means of what the shards have.
#[test]
fn groups_that_are_shards_are_batches_of_their_own() {
    let (n, shards) = (12, 4);
    for name in ["resnet8", "resnet18-cifar"] {
        let plain = ResNet::<f32>::new(&Architecture::by_name(name).unwrap().with_classes(10), 1).unwrap();
        let mut rng = stream(4, Purpose::Verify, &[]);
        let x = Array4::from_shape_simple_fn((n, 10, 9, 3), || rng.random_range(-1.0f32..1.0));
        let dlogits = Array2::from_shape_simple_fn((n, 10), || rng.random_range(-1.0f32..1.0));
        let engine = Engine::default();
        let of = |model: &ResNet<f32>, images: Range<usize>, shards: usize| {
            let (shards, mut moved) = (Shards::new(images.len(), shards, Arc::new(Alone)), model.clone());
            let x = x.slice(s![images.clone(), .., .., ..]).to_owned().into_shared();
            let (logits, cache) = engine.forward_shards(model, &x, &shards).unwrap();
            engine.update_running_statistics(&mut moved, &cache);
            let dlogits = dlogits.slice(s![images, ..]).to_owned();
            let (dx, gradients) = engine.backward(model, &dlogits, cache).unwrap();
            (logits, dx, gradients, moved)
        };
        let (logits, dx, gradients, moved) = of(&grouped(plain.clone(), n / shards), 0..n, shards);
        let alone: Vec<_> = (0..shards).map(|i| of(&plain, i * n / shards..(i + 1) * n / shards, 1)).collect();
        for (i, (own_logits, own_dx, ..)) in alone.iter().enumerate() {
            let images = i * n / shards..(i + 1) * n / shards;
            assert!(bits(logits.slice(s![images.clone(), ..])) == bits(own_logits), "logits of shard {i}, {name}");
            assert!(bits(dx.slice(s![images, .., .., ..])) == bits(own_dx), "dx of shard {i}, {name}");
        }
        // (0 + 1) + (2 + 3)
        for (tensor, (name, gradient)) in gradients.iter().enumerate() {
            let of = |i: usize| alone[i].2.iter().nth(tensor).unwrap().1;
            assert!(bits(gradient) == bits(&((of(0) + of(1)) + (of(2) + of(3)))), "{name}");
        }
        let moves: Vec<_> = alone.iter().map(|(.., moved)| moved.norms()).collect();
        for (i, (bn, start)) in moved.norms().into_iter().zip(plain.norms()).enumerate() {
            let of = |which: fn(&BatchNorm2d<f32>) -> &Array1<f32>| {
                // The mean of the moved statistics is the statistic moved by the mean.
                let mean =
                    moves.iter().map(|norms| which(norms[i])).fold(Array1::zeros(bn.gamma.len()), |a, b| a + b) / 4.0;
                // Some roundings of numbers that are at most a few times as large.
                let near = which(bn)
                    .iter()
                    .zip(&mean)
                    .all(|(a, b): (&f32, &f32)| (a - b).abs() <= 8.0 * f32::EPSILON * b.abs().max(1.0));
                near && which(bn) != which(start)
            };
            assert!(of(|bn| &bn.running_mean) && of(|bn| &bn.running_var), "running statistics {i} of {name}");
        }
    }
}

/// With groups, the passes exchange nothing until the gradients are complete, except for the running statistics.
#[test]
fn groups_need_no_exchange() {
    let sent = |group: usize| {
        let model = grouped(ResNet::new(&Architecture::by_name("resnet8").unwrap(), 1).unwrap(), group);
        let sent = threads::run(2, 1, |communicator| {
            let (engine, shards) = (Engine::default(), Shards::new(8, 2, communicator.clone()));
            let x = Array4::from_shape_fn((4, 8, 8, 3), |(n, h, w, c)| ((3 * n + 5 * h + 2 * w + c) % 7) as f32);
            let (_, cache) = engine.forward_shards(&model, &x.into_shared(), &shards).unwrap();
            let forward = communicator.traffic().bytes;
            engine.update_running_statistics(&mut model.clone(), &cache);
            (forward, communicator.traffic().bytes - forward)
        });
        sent[0]
    };
    // 1 + 3C values of every batch norm before the next layer, or 2C of all at the end.
    let channels: u64 = 3 * 16 + 2 * 32 + 2 * 64;
    assert_eq!((sent(0), sent(2)), ((4 * (7 + 3 * channels), 0), (0, 4 * 2 * channels)));
}

#[test]
fn the_engine_has_the_same_groups_in_all_batch_norms() {
    let mut model = ResNet::<f32>::new(&Architecture::by_name("resnet8").unwrap(), 1).unwrap();
    model.norms_mut()[3].group = NonZeroUsize::new(2);
    let x = Array4::zeros((4, 8, 8, 3)).into_shared();
    let message = Engine::default().forward(&model, &x).map(drop).unwrap_err().to_string();
    assert!(message.contains("the same `group` in all batch norms"), "{message}");
    // A group of one image with one pixel in the last stage.
    let model = grouped(ResNet::new(&Architecture::by_name("resnet18-cifar").unwrap(), 1).unwrap(), 1);
    let message = Engine::default().forward(&model, &x).map(drop).unwrap_err().to_string();
    assert!(message.contains("more than one value per channel in every group of images"), "{message}");
    assert_eq!(model.forward(&x, Mode::Train).map(drop).unwrap_err().to_string(), message);
}

/// What two epochs of training give: the weights and averages, the metrics of the epochs, those of the layers, and an
/// evaluation.
fn trained(recipe: &Recipe, processes: usize, threads: usize) -> Vec<(u64, String)> {
    let splits = embedded::load();
    let train = Arc::new(splits.train.subset(&(0..44).collect::<Vec<_>>()).unwrap());
    let test = Arc::new(splits.test.subset(&(0..37).collect::<Vec<_>>()).unwrap());
    threads::run(processes, threads, |communicator| {
        let model = ResNet::<f32>::new(&Architecture::by_name(&recipe.model).unwrap().with_classes(10), 5).unwrap();
        let executor = Arc::new(Engine::default());
        let trainer = Trainer::new(model, executor.clone(), recipe.clone(), train.clone()).unwrap();
        let mut trainer = trainer.among(communicator.clone()).unwrap();
        let mut log = String::new();
        while !trainer.is_done() {
            let epoch = trainer.train_epoch(&mut |step| {
                log += &format!("{} {} {}\n", step.loss, step.correct, step.gradient_norm);
                ControlFlow::Continue(())
            });
            // Everything but the time.
            log += &format!("{:?}\n{:?}\n", EpochMetrics { seconds: 0.0, ..epoch.unwrap().unwrap() }, trainer.layers());
        }
        let result = trainer.result();
        let options = EvaluationOptions { batch_size: 8, ..recipe.evaluation() };
        let mut look = |prediction: Prediction| log += &format!("{prediction:?}\n");
        let tested = evaluate_among(&*communicator, &*executor, &result, &test, options, &mut look).unwrap();
        (fingerprint(&result), format!("{log}{tested:?}"))
    })
}

/// All options at once; batches of 20, 20 and 4 images, the last with fewer images than shards.
#[test]
fn training_and_evaluation_have_the_same_bits_for_every_number_of_processes() {
    let recipe = Recipe {
        epochs: 2,
        batch_size: 20,
        shards: 8,
        accumulate: 2,
        mixup: 0.4,
        clip_norm: 0.5,
        ema_decay: 0.9,
        label_smoothing: 0.1,
        test_flip: true,
        augmentation: Augmentation { cutout: 8, ..Augmentation::STANDARD },
        ..Recipe::by_name("demo").unwrap()
    };
    let alone = trained(&recipe, 1, 2).remove(0);
    for (processes, threads) in [(2, 1), (3, 2), (8, 1)] {
        for (rank, other) in trained(&recipe, processes, threads).into_iter().enumerate() {
            assert_eq!(other.1, alone.1, "rank {rank} of {processes}");
            assert_eq!(other.0, alone.0, "rank {rank} of {processes}");
        }
    }
    assert_ne!(trained(&Recipe { shards: 1, ..recipe }, 1, 1)[0].0, alone.0);
}

/// Batches of 32 and 12 images: shards of 4 images in groups of 2, then shards of 1 and 2.
#[test]
fn training_with_groups_has_the_same_bits_for_every_number_of_processes() {
    let recipe = Recipe {
        epochs: 1,
        batch_size: 32,
        shards: 8,
        norm_group: 2,
        ema_decay: 0.9,
        ..Recipe::by_name("demo").unwrap()
    };
    let alone = trained(&recipe, 1, 2).remove(0);
    for (rank, other) in trained(&recipe, 3, 1).into_iter().enumerate() {
        assert_eq!((other.1, other.0), (alone.1.clone(), alone.0), "rank {rank}");
    }
    assert_ne!(trained(&Recipe { norm_group: 0, ..recipe }, 1, 1)[0].0, alone.0);
}

#[test]
fn what_cannot_be_shared_is_rejected() {
    let train = Arc::new(embedded::load().train.subset(&[0, 1, 2, 3]).unwrap());
    let model = || ResNet::<f32>::new(&Architecture::by_name("resnet8").unwrap(), 5).unwrap();
    let recipe = Recipe { shards: 2, batch_size: 4, ..Recipe::by_name("demo").unwrap() };
    let messages = threads::run(3, 1, |communicator| {
        let trainer = Trainer::new(model(), Arc::new(Engine::default()), recipe.clone(), train.clone()).unwrap();
        trainer.among(communicator).unwrap_err().to_string()
    });
    assert!(messages[0].contains("at least one shard per process, got 3 processes and 2 shards"), "{messages:?}");
    let mut trainer = Trainer::new(model(), Arc::new(Reference), recipe, train).unwrap();
    let message = trainer.train_epoch(&mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(message.contains("expects a batch in one shard, got 2; use the engine"), "{message}");
    // A process with another part of the batch than it says.
    let shards = Shards::new(4, 2, Arc::new(Alone));
    let x = Array4::zeros((3, 8, 8, 3)).into_shared();
    let message = Engine::default().forward_shards(&model(), &x, &shards).map(drop).unwrap_err().to_string();
    assert!(message.contains("the 4 images of this process"), "{message}");
}
