//! The engine against the code it replaces, bit for bit; it leaves with that code.

use super::{Algorithm, Engine};
use crate::layers::{Conv2dAlgorithm, Mode, SoftmaxCrossEntropy};
use crate::model::{Architecture, ResNet};
use crate::parameters::Parameters as _;
use crate::rng::{stream, Purpose};
use ndarray::Array4;
use rand::RngExt as _;

fn bits(x: impl IntoIterator<Item = f32>) -> Vec<u32> {
    x.into_iter().map(f32::to_bits).collect()
}

#[test]
fn engine_equals_old() {
    for (name, n, size, algorithm) in [
        ("resnet8", 7, 32, Algorithm::Auto),
        ("resnet8", 5, 20, Algorithm::Winograd4),
        ("resnet8", 9, 18, Algorithm::Winograd2),
        ("resnet8", 3, 17, Algorithm::Gemm),
        ("plain8", 6, 12, Algorithm::Indirect),
        ("resnet18-cifar", 3, 14, Algorithm::Auto),
        ("resnet50-cifar", 3, 9, Algorithm::Auto),
        ("resnet18", 2, 40, Algorithm::Auto),
        ("resnext50_32x4d", 2, 40, Algorithm::Auto),
        ("preact110", 4, 16, Algorithm::Auto),
        ("preact164", 3, 15, Algorithm::Auto),
        ("wide_resnet50_2", 2, 33, Algorithm::Auto),
        ("resnet34-cifar7x7", 2, 12, Algorithm::Auto),
    ] {
        let mut model = ResNet::<f32>::new(&Architecture::by_name(name).unwrap().with_classes(10), 1).unwrap();
        let old = match algorithm {
            Algorithm::Auto => Conv2dAlgorithm::Auto,
            Algorithm::Gemm => Conv2dAlgorithm::Gemm,
            Algorithm::Indirect => Conv2dAlgorithm::Implicit,
            Algorithm::Winograd2 => Conv2dAlgorithm::Winograd2,
            Algorithm::Winograd4 => Conv2dAlgorithm::Winograd4,
        };
        model.convs_mut().into_iter().for_each(|conv| conv.algorithm = old);
        for (i, bn) in model.norms_mut().into_iter().enumerate() {
            bn.beta.iter_mut().enumerate().for_each(|(c, beta)| *beta = ((i + c) % 5) as f32 * 0.1 - 0.2);
            bn.gamma.iter_mut().enumerate().for_each(|(c, gamma)| *gamma = 1.5 - ((i + c) % 3) as f32);
        }
        let mut rng = stream(3, Purpose::Verify, &[]);
        let x = Array4::from_shape_simple_fn((n, size, size, 3), || rng.random_range(-1.0f32..1.0)).into_shared();
        let engine = Engine::new(algorithm);
        let targets: Vec<usize> = (0..n).map(|i| i % 10).collect();
        let (logits, cache) = engine.forward(&model, &x).unwrap();
        let (old_logits, old_cache) = model.forward(&x, Mode::Train).unwrap();
        assert_eq!(bits(logits.iter().copied()), bits(old_logits.iter().copied()), "logits {name}");
        let (_, loss) = SoftmaxCrossEntropy::new().forward(&logits, &targets).unwrap();
        let dlogits = SoftmaxCrossEntropy::new().backward(&loss);
        let (mut a, mut b) = (model.clone(), model.clone());
        engine.update_running_statistics(&mut a, &cache);
        b.update_running_statistics(&old_cache);
        let mut all = Vec::new();
        a.visit("", &mut |_, _, t| all.extend(bits(t.iter().copied())));
        let mut all_b = Vec::new();
        b.visit("", &mut |_, _, t| all_b.extend(bits(t.iter().copied())));
        assert!(all == all_b, "statistics {name}");
        let (dx, g) = engine.backward(&model, &dlogits, cache).unwrap();
        let (old_dx, old_g) = model.backward(&dlogits, old_cache).unwrap();
        for ((n1, g1), (n2, g2)) in g.iter().zip(old_g.iter()) {
            assert_eq!(n1, n2);
            assert!(bits(g1.iter().copied()) == bits(g2.iter().copied()), "{n1} of {name}");
        }
        assert!(bits(dx.iter().copied()) == bits(old_dx.iter().copied()), "dx {name}");
        let p = engine.predict(&a, &x).unwrap();
        let q = b.predict(&x).unwrap();
        assert!(bits(p.iter().copied()) == bits(q.iter().copied()), "predict {name}");
        println!("{name} ok");
    }
}
