//! Folders of pictures, from files of every kind to predictions; `resnet data`, `predict` and `train --init-from`.

use super::common::{Folder, from_png, to_png};
use jpeg_encoder::{ColorType, Encoder};
use ndarray::{Array3, s};
use resnet_by_hand::data::loader::LoaderOptions;
use resnet_by_hand::data::{Loader, Normalization, Opened, open, picture};
use resnet_by_hand::formats;
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::parameters::{Parameters as _, fingerprint};
use resnet_by_hand::train::checkpoint::data_hash;
use resnet_by_hand::weights::state_dict;
use serde_json::Value;
use std::fs;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

/// A picture of `height` x `width` in one colour, with a pattern of ±`noise` on it.
fn painted(height: usize, width: usize, colour: [u8; 3], noise: u8) -> Array3<u8> {
    Array3::from_shape_fn((height, width, 3), |(y, x, c)| {
        let up = (7 * x + 11 * y + 5 * c) % 13 < 6;
        if up { colour[c].saturating_add(noise) } else { colour[c].saturating_sub(noise) }
    })
}

/// Writes a picture where `name` says, PNG or JPEG by its extension.
fn write(folder: &Folder, name: &str, picture: &Array3<u8>) {
    let path = folder.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if name.ends_with(".png") {
        return fs::write(path, to_png(picture)).unwrap();
    }
    let (height, width, _) = picture.dim();
    let encoder = Encoder::new_file(path, 75).unwrap();
    encoder.encode(picture.as_slice().unwrap(), width as u16, height as u16, ColorType::Rgb).unwrap();
}

const COLOURS: [(&str, [u8; 3]); 3] = [("blue", [40, 60, 200]), ("green", [50, 180, 40]), ("red", [210, 50, 60])];

/// `photos/CLASS/*`: ten pictures of each of three classes, PNG and JPEG in turn, of different sizes.
fn write_photos(folder: &Folder) {
    for (class, (name, colour)) in (0..).zip(COLOURS) {
        for i in 0..10 {
            let (height, width) = (16 + (5 * i + class) % 11, 16 + (3 * i + 2 * class) % 17);
            let extension = ["png", "jpg", "JPEG"][i % 3];
            write(folder, &format!("photos/{name}/{i:02}.{extension}"), &painted(height, width, colour, 8 + i as u8));
        }
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Bytes (0, 51, 100) and (255, 153, 101): means 1/2, 2/5, 201/510; deviations 1/2, 1/5, 1/510.
#[test]
fn info_of_train_and_val_against_numbers_by_hand() {
    let folder = Folder::new("data-info");
    write(&folder, "set/train/owl/1.png", &painted(4, 4, [0, 51, 100], 0));
    write(&folder, "set/train/yak/1.png", &painted(4, 4, [255, 153, 101], 0));
    for name in ["owl/1", "owl/night/2", "yak/1"] {
        write(&folder, &format!("set/val/{name}.png"), &painted(9, 6, [255, 0, 51], 0));
    }
    fs::write(folder.path("set/train/owl/notes.txt"), "not a picture").unwrap();
    fs::write(folder.path("set/val/yak/.hidden.png"), "not a picture").unwrap();

    let info = json(&folder.ok("data info --data set --image-size 4 --json"));
    assert_eq!(info["kind"], "folder");
    assert_eq!(info["classes"], serde_json::json!(["owl", "yak"]));
    let notes = [
        "train: train/, 2 classes; test: val/ (there is no other folder to test on)",
        "2 files left out, hidden or not PNG, JPEG, WebP, BMP, GIF or TIFF: .txt 1, hidden 1",
    ];
    assert_eq!(info["notes"], serde_json::json!(notes));
    for (split, images, counts) in [("train", 2, [1, 1]), ("test", 3, [2, 1])] {
        let split = &info["splits"][split];
        assert_eq!((&split["images"], &split["counts"]), (&images.into(), &serde_json::json!(counts)));
        assert_eq!((&split["height"], &split["width"]), (&4.into(), &4.into()));
    }
    let numbers = |split: &str, key: &str| {
        let numbers = info["splits"][split][key].as_array().unwrap();
        numbers.iter().map(|number| number.as_f64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(numbers("train", "mean"), [0.5, 0.4, 201.0 / 510.0]);
    assert_eq!(numbers("train", "std"), [0.5, 0.2, 1.0 / 510.0]);
    // One colour, for any original size.
    assert_eq!((numbers("test", "mean"), numbers("test", "std")), (vec![1.0, 0.0, 0.2], vec![0.0; 3]));

    let table = folder.ok("data info --data set --image-size 4");
    let lines: Vec<&str> = table.lines().collect();
    for line in [
        "data           2 classes of images from set, as 4x4 pixels",
        "training       2 images of 4x4 pixels",
        "mean           0.500000,0.400000,0.394118",
        "std            0.500000,0.200000,0.001961",
        "test           3 images of 4x4 pixels",
        "class   training       test",
        "owl            1          2",
        "yak            1          1",
    ] {
        assert!(lines.contains(&line), "{line}\n{table}");
    }
    // The embedded images, with a size that they do not have.
    assert!(folder.ok("data info").contains("1,400 images of 32x32 pixels"));
    folder.fails("data info --image-size 64", 2, &["--image-size is for pictures in folders"]);
}

#[test]
fn every_fifth_picture_of_a_class_is_held_out() {
    let folder = Folder::new("data-fifth");
    for i in 1..=11 {
        write(&folder, &format!("set/many/{i:02}.jpg"), &painted(33 + i, 97, [200, 100, 50], 0));
    }
    for i in 1..=3 {
        write(&folder, &format!("set/few/{i}.png"), &painted(21, 20 + i, [10, 20, 30], 0));
    }
    let info = json(&folder.ok("data info --data set --image-size 20 --json"));
    assert_eq!(info["classes"], serde_json::json!(["few", "many"]));
    assert_eq!(info["splits"]["train"]["counts"], serde_json::json!([2, 9]));
    assert_eq!(info["splits"]["test"]["counts"], serde_json::json!([1, 2]));
    let note = "no test/ or val/: every fifth image of each class, 3 in all, is held out for testing";
    assert_eq!(info["notes"], serde_json::json!([note]));
    // Which ones: replacing these changes only the test images.
    let mean = &info["splits"]["train"]["mean"];
    for name in ["many/05.jpg", "many/10.jpg", "few/3.png"] {
        write(&folder, &format!("set/{name}"), &painted(20, 20, [0, 0, 0], 0));
    }
    let changed = json(&folder.ok("data info --data set --image-size 20 --json"));
    assert_eq!(&changed["splits"]["train"]["mean"], mean);
    assert_eq!(changed["splits"]["test"]["mean"], serde_json::json!([0.0, 0.0, 0.0]));
}

/// Data sets that are only partly in memory, or not at all, are the same data sets.
#[test]
fn pictures_need_not_fit_into_memory() {
    let folder = Folder::new("data-memory");
    write_photos(&folder);
    let open = |memory: Option<u64>| open(&folder.path("photos"), 20, memory).unwrap();
    let whole = open(None);
    // 30 pictures of 20x20 pixels and three bytes: 36,000.
    assert_eq!(open(Some(72_000)).splits, whole.splits);
    for (memory, kept) in [(71_999, 14), (5_000, 1), (0, 0)] {
        let Opened { splits, notes, .. } = open(Some(memory));
        assert!(notes.last().unwrap().contains(&format!("{kept} of 30 are kept")), "{notes:?}");
        assert_eq!((splits.train.in_memory(), splits.test.in_memory()), (kept, 0));
        for (part, all) in [(&splits.train, &whole.splits.train), (&splits.test, &whole.splits.test)] {
            let indices = [3, 0, part.len() - 1, 3];
            assert_eq!(part.images(&indices).unwrap(), all.images(&indices).unwrap());
            assert_eq!((&part.labels, part.mean_and_std().unwrap()), (&all.labels, all.mean_and_std().unwrap()));
        }
        assert_eq!(data_hash(&splits.train).unwrap(), data_hash(&whole.splits.train).unwrap());
        assert_eq!(picture::grid(&splits.train, 3).unwrap(), picture::grid(&whole.splits.train, 3).unwrap());
        let [part, all] = [&splits, &whole.splits].map(|splits| {
            let (train, validation) = splits.train.split_validation(5, 1).unwrap();
            let options = LoaderOptions { mixup: 0.3, ..LoaderOptions::training(4, Normalization::CIFAR10, 2) };
            let loaders = [train, validation].map(|images| Loader::<f32>::new(Arc::new(images), options).unwrap());
            loaders.map(|loader| loader.epoch(1).map(|batch| batch.unwrap().images).collect::<Vec<_>>())
        });
        assert_eq!(part, all);
    }
    // A file that has disappeared is an error of the batch, and the last item of the epoch.
    let train = open(Some(5_000)).splits.train;
    fs::remove_file(folder.path("photos/red/08.JPEG")).unwrap();
    let loader = Loader::<f32>::new(Arc::new(train), LoaderOptions::evaluation(4, Normalization::CIFAR10)).unwrap();
    let batches: Vec<_> = loader.epoch(0).collect();
    assert_eq!(batches.len(), 6);
    assert!(batches[5].as_ref().unwrap_err().to_string().contains("red/08.JPEG"));
}

/// A PNG file that claims to be this large, without pixels.
fn claim(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
    chunk.extend([8, 2, 0, 0, 0]);
    // CRC-32 of PNG, bit by bit.
    let crc = !chunk.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (if crc & 1 == 1 { 0xedb8_8320 } else { 0 }))
    });
    [&b"\x89PNG\r\n\x1a\n\0\0\0\x0d"[..], &chunk, &crc.to_be_bytes(), b"\0\0\0\0IDAT\x35\xaf\x06\x1e"].concat()
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = Folder::new("data-wrong");
    let info = |parts: &[&str]| folder.fails("data info --data set", 1, parts);
    info(&["set does not exist"]);
    fs::create_dir(folder.path("set")).unwrap();
    info(&["expected CIFAR-10 here", "CIFAR-100 here", "train/CLASS/", "found an empty folder"]);
    fs::write(folder.path("file"), "hello").unwrap();
    folder.fails("data info --data file", 1, &["file", "expected a folder or a .tar.gz archive"]);

    for name in ["a/1.png", "a/2.png", "b/1.png", "b/2.png"] {
        write(&folder, &format!("set/{name}"), &painted(40, 50, [1, 2, 3], 1));
    }
    fs::create_dir(folder.path("set/empty")).unwrap();
    info(&["expected PNG, JPEG, WebP, BMP, GIF or TIFF images in the folder of every class, found none in empty/"]);
    fs::remove_dir(folder.path("set/empty")).unwrap();
    info_ok(&folder);

    fs::write(folder.path("set/a/text.png"), "this is a text").unwrap();
    write(&folder, "set/b/cut.jpg", &painted(40, 50, [200, 100, 50], 20));
    let jpeg = fs::read(folder.path("set/b/cut.jpg")).unwrap();
    fs::write(folder.path("set/b/cut.jpg"), &jpeg[..jpeg.len() - 20]).unwrap();
    fs::write(folder.path("set/b/cut.png"), &fs::read(folder.path("set/b/1.png")).unwrap()[..60]).unwrap();
    fs::write(folder.path("set/b/empty.png"), "").unwrap();
    fs::write(folder.path("set/b/wide.png"), claim(4_000_000_000, 1)).unwrap();
    fs::write(folder.path("set/b/huge.png"), claim(17_000, 17_000)).unwrap();
    fs::write(folder.path("set/b/long.png"), claim(1, 65_536)).unwrap();
    // A sparse file, if the file system supports it.
    fs::File::create(folder.path("set/b/zeros.png")).unwrap().set_len((1 << 30) + 1).unwrap();
    info(&[
        "8 of 12 images cannot be read; repair or remove them",
        "b/long.png: expected an image of at most 268435456 pixels and 65535 in a row or column",
        "b/zeros.png: expected at most 1073741824 bytes, found 1073741825",
        "a/text.png: expected a PNG, JPEG, WebP, BMP, GIF or TIFF image, found a file that starts [74, 68, 69",
        "b/cut.jpg: truncated: the end of the JPEG image is missing",
        "b/cut.png: not a whole image",
        "b/empty.png: expected a PNG, JPEG, WebP, BMP, GIF or TIFF image, found an empty file",
        "b/wide.png: ",
        "b/huge.png: expected an image of at most 268435456 pixels",
    ]);

    let folder = Folder::new("data-splits");
    for name in ["train/a/1.png", "train/b/1.png"] {
        write(&folder, &format!("set/{name}"), &painted(8, 8, [1, 2, 3], 1));
    }
    folder.fails("data info --data set", 1, &["found only train/"]);
    for name in ["test/a/1.png", "test/c/1.png"] {
        write(&folder, &format!("set/{name}"), &painted(8, 8, [1, 2, 3], 1));
    }
    folder.fails("data info --data set", 1, &["set: ", "only in train/: b; only in test/: c"]);
    fs::remove_dir_all(folder.path("set/train/b")).unwrap();
    fs::remove_dir_all(folder.path("set/test/c")).unwrap();
    folder.fails("data info --data set", 1, &["two or more classes, found only a/"]);
}

#[test]
fn the_validation_images_of_a_data_set_choose_the_epoch() {
    let folder = Folder::new("data-validation");
    for (split, images) in [("Training", 4), ("valid", 2), ("Testing", 3)] {
        for ((name, colour), i) in COLOURS.into_iter().flat_map(|class| (0..images).map(move |i| (class, i))) {
            write(&folder, &format!("set/{split}/{name}/{i}.png"), &painted(16, 16, colour, i + 9));
        }
    }
    let info = folder.ok("data info --data set");
    assert!(info.contains("note           train: Training/, 3 classes; validation: valid/; test: Testing/"), "{info}");
    assert!(
        info.contains("\nclass   training  validation       test\nblue           4           2          3\n"),
        "{info}"
    );

    let train = "train --model resnet8 --image-size 16 --batch-size 6 --data set --epochs 1";
    let stdout = folder.ok(&format!("{train} --out run"));
    assert!(stdout.contains("12 images for training, 6 for validation, 9 for testing"), "{stdout}");
    assert!(stdout.contains("the best epoch is chosen by the validation images of the data set"), "{stdout}");
    let config: toml::Table = folder.read("run/config.toml").parse().unwrap();
    assert_eq!(config["validation"].as_str(), Some("folder"));
    let about = json(&folder.ok("eval --weights run/best.safetensors --data set --validation-set --json"));
    let validated: f64 = csv(&folder.read("run/metrics.csv"), "validation_top1").parse().unwrap();
    assert_eq!(about["images"], 6);
    assert_eq!(about["accuracy"].as_f64(), Some(validated));
    // The same settings again, from the file; the test images are not for selection, nor are others used unasked.
    folder.ok("train --config run/config.toml --out again");
    assert_eq!(folder.read("again/config.toml"), folder.read("run/config.toml"));
    let stdout = folder.ok(&format!("{train} --validation 0 --out none"));
    assert!(stdout.contains("validation images of the data set are not used, because --validation is 0"), "{stdout}");
    assert!(!folder.path("none/best.safetensors").exists());
    folder.fails("train --validation folder --out no", 2, &["--validation folder needs a data set with its own"]);
    folder.fails("train --validation most --out no", 2, &["expected a whole number, at least 0, or `folder`"]);
    folder.fails("eval --validation-set", 2, &["--validation-set needs a data set with its own"]);
}

/// The value in a column of the last row.
fn csv<'a>(text: &'a str, column: &str) -> &'a str {
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    let column = rows[0].iter().position(|name| *name == column).unwrap();
    rows.last().unwrap()[column]
}

fn info_ok(folder: &Folder) {
    assert!(folder.ok("data info --data set").contains("2 images of 32x32 pixels"));
}

#[test]
fn grid_has_a_row_for_each_class_and_does_not_overwrite() {
    let folder = Folder::new("data-grid");
    write_photos(&folder);
    // Lines of 2 pixels around 3 x 4 images of 16x16.
    folder.ok("data grid --data photos --image-size 16 --columns 4 --out grid.png");
    let grid = || from_png(&fs::read(folder.path("grid.png")).unwrap());
    let pixels = grid();
    assert_eq!(pixels.dim(), (3 * 18 + 2, 4 * 18 + 2, 3));
    for (row, (name, _)) in (0..).zip(COLOURS) {
        // The fifth is held out.
        for (column, file) in (0..).zip(["00.png", "01.jpg", "02.JPEG", "03.png"]) {
            let expected = picture::read(&folder.path(&format!("photos/{name}/{file}")), 16).unwrap();
            let (left, top) = (2 + 18 * column, 2 + 18 * row);
            for ((y, x, c), &byte) in expected.indexed_iter() {
                assert_eq!(pixels[[top + y, left + x, c]], byte, "{name}/{file} {y} {x} {c}");
            }
            // The line before the image.
            assert!(pixels.slice(s![top, left - 2..left, ..]).iter().all(|&byte| byte == 255));
        }
    }
    let before = fs::read(folder.path("grid.png")).unwrap();
    folder.fails("data grid --out grid.png", 1, &["grid.png", "--force"]);
    assert_eq!(fs::read(folder.path("grid.png")).unwrap(), before);
    folder.fails("data grid --out grid.jpg", 2, &["grid.jpg", "ends in .png"]);
    folder.ok("data grid --columns 3 --out grid.png --force");
    assert_eq!(grid().dim(), (10 * 34 + 2, 3 * 34 + 2, 3));
}

const TRAIN: &str = "train --model resnet8 --image-size 16 --batch-size 6 --validation 4 --seed 3 --no-augment";

#[test]
fn from_a_folder_to_predictions() {
    let folder = Folder::new("data-predict");
    write_photos(&folder);
    let stdout = folder.ok(&format!("{TRAIN} --data photos --epochs 2 --out run"));
    assert!(stdout.contains("3 classes of images from photos, as 16x16 pixels"), "{stdout}");
    assert!(stdout.contains("every fifth image of each class, 6 in all"), "{stdout}");
    // Normalised by the statistics of the training images, not by those of CIFAR-10.
    let config: toml::Table = folder.read("run/config.toml").parse().unwrap();
    assert_eq!(config["image_size"].as_integer(), Some(16));
    let images = open(&folder.path("photos"), 16, None).unwrap().splits.train;
    let (mean, std) = images.split_validation(4, 3).unwrap().0.mean_and_std().unwrap();
    for (key, expected) in [("mean", mean), ("std", std)] {
        let found: Vec<f64> = config[key].as_array().unwrap().iter().map(|value| value.as_float().unwrap()).collect();
        assert_eq!(found, expected, "{key}");
    }

    // The weights file contains the size, the classes and the normalisation.
    let weights = "--weights run/best.safetensors";
    let eval = json(&folder.ok(&format!("eval {weights} --data photos --json")));
    let result = json(&folder.read("run/result.json"));
    assert_eq!(eval["correct"], result["test_correct"], "{eval}");

    // Each test image on its own gets the class that `eval` counts.
    let mut correct = 0;
    for (label, (name, _)) in COLOURS.iter().enumerate() {
        let paths = ["04.jpg", "09.png"].map(|file| format!("photos/{name}/{file}"));
        let said = json(&folder.ok(&format!("predict {weights} --json {}", paths.join(" "))));
        assert_eq!(said["classes"], serde_json::json!(["blue", "green", "red"]));
        assert_eq!(said["image_size"], 16);
        for (prediction, path) in said["predictions"].as_array().unwrap().iter().zip(&paths) {
            assert_eq!(prediction["image"], path.as_str());
            let top = prediction["top"].as_array().unwrap();
            let probabilities: Vec<f64> = top.iter().map(|guess| guess["probability"].as_f64().unwrap()).collect();
            assert!(top.len() == 3 && probabilities.windows(2).all(|pair| pair[0] >= pair[1]));
            // The sum of three shares is off by at most two roundings, each quotient by one, their sum by two: 5u, u = 2⁻⁵³.
            assert!((probabilities.iter().sum::<f64>() - 1.0).abs() <= 5.0 * 2f64.powi(-53), "{probabilities:?}");
            correct += u64::from(top[0]["label"] == label);
        }
    }
    assert_eq!(eval["correct"], correct);

    // A picture that the camera held upright: the pixels with a note, or as stored. The pixels as stored are those of the file
    // without EXIF.
    let plain = fs::read(folder.path("photos/red/01.jpg")).unwrap();
    let exif = b"\xff\xe1\0\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    fs::write(folder.path("turned.jpg"), [&plain[..2], exif, &plain[2..]].concat()).unwrap();
    let said = |arguments: &str| folder.run(&format!("predict {weights} {arguments}"));
    let note = "note: turned.jpg: rotated by EXIF orientation 6; --exif ignore reads the pixels as stored";
    assert!(said("turned.jpg").stderr.contains(note), "{:?}", said("turned.jpg"));
    let ignored = said("--exif ignore turned.jpg");
    assert_eq!((ignored.code, ignored.stderr.as_str()), (Some(0), ""));
    let without_name = |text: &str| text.lines().skip(1).collect::<Vec<_>>().join("\n");
    assert_eq!(without_name(&ignored.stdout), without_name(&said("photos/red/01.jpg").stdout));
    assert_eq!(json(&said("--json turned.jpg").stdout)["predictions"][0]["exif_orientation"], 6);

    // A picture that cannot be read is named and skipped; --strict stops at it.
    fs::write(folder.path("text.png"), "not a picture").unwrap();
    let with_text = format!("predict {weights} --top 1 photos/red/00.png text.png photos/blue/00.png");
    let run = folder.run(&with_text);
    let broken = "error: text.png: expected a PNG, JPEG, WebP, BMP, GIF or TIFF image";
    assert!(run.stderr.starts_with(broken), "{run:?}");
    assert!(run.stderr.ends_with("note: 2 pictures classified, 1 skipped\n"), "{run:?}");
    let stdout = run.ok();
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines.len() == 4 && lines[0] == "photos/red/00.png" && lines[2] == "photos/blue/00.png", "{stdout}");
    assert!(lines[1].contains(" %  "), "{stdout}");
    let run = folder.run(&format!("{with_text} --strict"));
    assert_eq!(run.stdout.lines().collect::<Vec<_>>(), lines[..2]);
    run.fails(1, &[broken]);
    folder.fails(&format!("predict {weights} text.png absent.png"), 1, &[broken, "cannot read absent.png"]);

    // A folder is its pictures, in this order, each with the bits it has on its own.
    let paths = folder.ok(&format!("predict {weights} --format csv photos"));
    let paths: Vec<&str> = paths.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
    assert!(paths.len() > 20 && paths.is_sorted() && paths[0] == "photos/blue/00.png", "{paths:?}");
    let whole = folder.ok(&format!("predict {weights} --format jsonl photos --threads 3"));
    let single = folder.ok(&format!("predict {weights} --format jsonl {}", paths[7]));
    assert_eq!(whole.lines().nth(7), single.lines().next());
    fs::create_dir(folder.path("nothing")).unwrap();
    folder.fails(
        &format!("predict {weights} nothing"),
        1,
        &["nothing: expected PNG, JPEG, WebP, BMP, GIF or TIFF files, found none"],
    );
    folder.fails(&format!("predict {weights}"), 2, &["<IMAGE>"]);

    // Weights for other classes are rejected.
    folder.fails(&format!("eval {weights}"), 1, &["run/best.safetensors"]);
    for (name, _) in COLOURS {
        fs::create_dir_all(folder.path("other")).unwrap();
        fs::rename(folder.path(&format!("photos/{name}")), folder.path(&format!("other/{name}2"))).unwrap();
    }
    let parts =
        ["these weights are for the classes blue, green, red, but the images have the classes blue2, green2, red2"];
    folder.fails(&format!("eval {weights} --data other"), 1, &parts);
}

/// The members of a zip archive, after `change`.
fn rewritten(archive: &[u8], change: impl Fn(&str, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let mut read = zip::ZipArchive::new(std::io::Cursor::new(archive)).unwrap();
    let mut written = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for i in 0..read.len() {
        let mut member = read.by_index(i).unwrap();
        let (name, mut bytes) = (member.name().unwrap().to_string(), Vec::new());
        member.read_to_end(&mut bytes).unwrap();
        written.start_file(&name, zip::write::SimpleFileOptions::default()).unwrap();
        written.write_all(&change(&name, bytes)).unwrap();
    }
    written.finish().unwrap().into_inner()
}

/// Names with control sequences of a terminal are escaped where they are printed, and are the same when they are read again.
#[cfg(unix)]
#[test]
fn names_with_control_characters_are_escaped_and_kept() {
    let folder = Folder::new("data-control");
    write_photos(&folder);
    let name = "re\u{1b}[31md\n\"";
    fs::rename(folder.path("photos/red"), folder.path("photos").join(name)).unwrap();
    folder.ok(&format!("{TRAIN} --data photos --epochs 1 --out run"));
    folder.ok("convert run/weights.safetensors again.safetensors");
    for weights in ["run/weights.safetensors", "again.safetensors"] {
        let eval = folder.ok(&format!("eval --weights {weights} --data photos"));
        assert!(eval.contains("\nre\\u{1b}[31md\\n\"  ") && !eval.contains('\u{1b}'), "{eval:?}");
        let json: Value =
            serde_json::from_str(&folder.ok(&format!("predict --weights {weights} photos/blue --json"))).unwrap();
        assert_eq!(json["classes"][2], name);
    }
    let failed = folder.run("eval --weights no\u{1b}[31m.pth");
    assert!(failed.stderr.contains("cannot read no\\u{1b}[31m.pth: ") && !failed.stderr.contains('\u{1b}'));
}

/// Weights and their average in one file.
#[test]
fn fine_tuning_begins_with_the_key_that_is_given() {
    let folder = Folder::new("data-init-key");
    write_photos(&folder);
    folder.ok(&format!("{TRAIN} --data photos --epochs 1 --out first"));
    folder.ok("convert first/weights.safetensors plain.pth");
    // The pickle between its first two bytes and its last: the same tensors under two keys.
    let twice =
        rewritten(&fs::read(folder.path("plain.pth")).unwrap(), |name, bytes| match name.ends_with("data.pkl") {
            true => {
                let state = &bytes[2..bytes.len() - 1];
                [b"\x80\x02}Vmodel\n", state, b"sVema\n}Vmodule\n", state, b"ss."].concat()
            }
            false => bytes,
        });
    fs::write(folder.path("twice.pth"), twice).unwrap();
    let train = format!("{TRAIN} --data photos --epochs 1 --init-from twice.pth");
    let stdout = folder.ok(&format!("{train} --out usual"));
    for part in ["unwrapped: model\n", "not taken: ema.module (37 tensors); --init-key ema.module takes it instead\n"] {
        assert!(stdout.contains(part), "{part}\n{stdout}");
    }
    assert!(!folder.read("usual/config.toml").contains("init_key"));
    // Also as `--key`, its name in the other commands.
    for (flag, out) in [("--init-key", "average"), ("--key", "again")] {
        let stdout = folder.ok(&format!("{train} {flag} ema.module --out {out}"));
        assert!(stdout.contains("unwrapped: ema, module\n") && !stdout.contains("not taken"), "{stdout}");
        assert!(folder.read(&format!("{out}/config.toml")).contains("init_key = \"ema.module\"\n"));
    }
    folder.fails(&format!("{train} --init-key emma --out none"), 1, &["expected the key `emma`, found model, ema"]);
    let message = "pretrained: expected a checkpoint of PyTorch with the key `ema`, found a file without keys";
    folder.fails(&format!("{TRAIN} --data photos --init-from pretrained --init-key ema --out none"), 1, &[message]);
    folder.fails("eval --weights pretrained --key ema", 1, &[message]);
    assert!(!folder.path("none").exists());
}

#[test]
fn fine_tuning_takes_what_fits() {
    let folder = Folder::new("data-init-from");
    write_photos(&folder);
    folder.ok(&format!("{TRAIN} --data photos --epochs 1 --out first"));
    // Two of the three classes: the last layer differs.
    fs::remove_dir_all(folder.path("photos/green")).unwrap();
    let second = format!("{TRAIN} --data photos --epochs 2 --init-from first/weights.safetensors");
    let stdout = folder.ok(&format!("{second} --out second"));
    for part in [
        " tensors from first/weights.safetensors, 99.83 % of the parameters, 2 keep their initial values:",
        "fc.weight: (3, 64) in the file, (2, 64) in the model",
        "fc.bias: (3) in the file, (2) in the model",
    ] {
        assert!(stdout.contains(part), "{part}\n{stdout}");
    }
    // With steps too small to change a value, learned tensors end as they were in the file.
    folder.ok(&format!("{second} --lr 1e-30 --weight-decay 0 --out still"));
    let [first, still] =
        ["first", "still"].map(|run| formats::read(&folder.path(&format!("{run}/weights.safetensors"))).unwrap());
    for name in ["conv1.weight", "bn1.weight", "layer3.0.conv2.weight"] {
        assert_eq!(first.get(name).unwrap().to_f64(), still.get(name).unwrap().to_f64(), "{name}");
    }

    // The configuration that was written starts the same run again.
    let init_from = folder.path("first/weights.safetensors");
    assert!(folder.read("second/config.toml").contains(&format!("init_from = {:?}", init_from.to_str().unwrap())));
    folder.ok("train --config second/config.toml --keep-checkpoints 9 --out again");
    let weights = |run: &str| fs::read(folder.path(&format!("{run}/weights.safetensors"))).unwrap();
    assert!(weights("second") == weights("again"), "the same configuration, other weights");

    // Nothing fits: an error before anything is written.
    folder.fails(
        "train --model resnet20 --train-images 20 --init-from photos/red/00.png --out none",
        1,
        &["photos/red/00.png"],
    );
    let mut other = resnet_by_hand::tensors::Tensors::new();
    other.insert("conv1.weight", ndarray::Array4::<f32>::zeros((1, 2, 3, 3)));
    formats::write(&folder.path("other.npz"), &other).unwrap();
    let parts = [
        "other.npz",
        "found none with a matching name and shape",
        "conv1.weight: (1, 2, 3, 3) in the file, (16, 3, 3, 3) in the model",
    ];
    folder.fails(&format!("{TRAIN} --data photos --init-from other.npz --out none"), 1, &parts);
    // A part does not fit: an error that names the network, unless a part is enough.
    let deeper = format!("{TRAIN} --model resnet14 --data photos --init-from first/weights.safetensors --epochs 1")
        .replacen("--model resnet8 ", "", 1);
    let parts =
        ["--init-from needs all of them", "this file is a resnet8 (`--model resnet8`)", "--init-partial", "\n  and "];
    folder.fails(&format!("{deeper} --out none"), 1, &parts);
    assert!(!folder.path("none").exists());
    // Settings about weights that are not given.
    for (flag, value) in [("--init-partial", ""), ("--init-key", "ema")] {
        let part = format!("{flag} needs the weights with which to begin; add --init-from FILE");
        folder.fails(&format!("{TRAIN} --data photos {flag} {value} --out none"), 2, &[&part]);
    }
    assert!(
        folder
            .ok(&format!("{deeper} --init-partial --out part"))
            .contains("layer1.1.conv1.weight: missing in the file")
    );

    // Interrupted after an epoch, the run resumes without the file and ends with the same bytes.
    fs::remove_file(folder.path("again/result.json")).unwrap();
    for entry in fs::read_dir(folder.path("again/checkpoints")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap() > "epoch-000001-step-00000000.safetensors" {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    fs::remove_dir_all(folder.path("first")).unwrap();
    assert!(folder.ok("train --resume again").contains("after epoch 1 of 2"));
    assert!(weights("second") == weights("again"), "resumed, other weights");
}

/// The same with the library: tensors that fit are bit-identical, others do not change, and all are listed.
#[test]
fn matching_tensors_are_taken_to_the_bit() {
    let model = |name: &str, classes, seed| {
        ResNet::<f32>::new(&Architecture::by_name(name).unwrap().with_classes(classes), seed)
    };
    let first = model("resnet8", 3, 1).unwrap();
    let folder = Folder::new("data-matching");
    let path = folder.path("weights.safetensors");
    formats::write(&path, &state_dict::collect(&first)).unwrap();
    let tensors = formats::read(&path).unwrap();

    let mut second = model("resnet8", 2, 2).unwrap();
    let before = state_dict::collect(&second);
    let partial = state_dict::assign_matching(&path, &tensors, &mut second).unwrap();
    let after = state_dict::collect(&second);
    for (name, tensor) in after.iter() {
        let source = if name.starts_with("fc.") { &before } else { &tensors };
        assert_eq!(tensor.to_f64(), source.get(name).unwrap().to_f64(), "{name}");
    }
    assert_eq!(
        partial.left,
        ["fc.weight: (3, 64) in the file, (2, 64) in the model", "fc.bias: (3) in the file, (2) in the model"]
    );
    assert_eq!((partial.taken.len() + 2, partial.unused.len()), (after.iter().count(), 0));

    // A deeper network has additional tensors; a shallower one lacks some.
    let mut deeper = model("resnet14", 3, 2).unwrap();
    let partial = state_dict::assign_matching(&path, &tensors, &mut deeper).unwrap();
    assert!(
        partial.left.contains(&"layer1.1.conv1.weight: missing in the file".to_string()) && partial.unused.is_empty()
    );
    formats::write(&path, &state_dict::collect(&deeper)).unwrap();
    let mut again = model("resnet8", 3, 5).unwrap();
    let partial = state_dict::assign_matching(&path, &formats::read(&path).unwrap(), &mut again).unwrap();
    assert!(partial.unused.contains(&"layer1.1.conv1.weight".to_string()) && partial.left.is_empty());
    assert_eq!(fingerprint(&again), fingerprint(&first));
    assert!(again.parameter_count() > 0);
}

/// Without --weights: the embedded network, which needs no other flag either.
#[test]
fn the_pretrained_network_knows_the_classes_of_cifar10() {
    let folder = Folder::new("data-pretrained");
    let eval = json(&folder.ok("eval --json"));
    assert_eq!((eval["model"].as_str(), eval["images"].as_u64()), (Some("resnet20"), Some(500)));
    // The accuracy on all test images of CIFAR-10, of which these are 500, is 90 %: 451 ± 6.7. Three standard deviations below.
    assert!(eval["correct"].as_u64().unwrap() >= 431, "{eval}");

    let test = resnet_by_hand::data::embedded::load().test;
    let mut names = Vec::new();
    for i in 0..20 {
        names.push(format!("{i:02}.png"));
        write(&folder, &names[i], &test.image(i).to_owned());
    }
    let said = json(&folder.ok(&format!("predict --json --top 1 {}", names.join(" "))));
    assert_eq!((said["weights"].as_str(), said["image_size"].as_u64()), (Some("pretrained"), Some(32)));
    let labels = said["predictions"].as_array().unwrap().iter().map(|said| said["top"][0]["label"].as_u64().unwrap());
    let correct = labels.zip(&test.labels).filter(|(said, label)| *said == u64::from(**label)).count();
    assert!(correct >= 15, "{correct} of 20");
    // With --test-flip a picture and its mirror image have the same probabilities.
    let mirrored = Array3::from_shape_fn((32, 32, 3), |(y, x, c)| test.image(0)[[y, 31 - x, c]]);
    write(&folder, "mirrored.png", &mirrored);
    let probability = |flags: &str| {
        let said = json(&folder.ok(&format!("predict --json {flags} 00.png mirrored.png")));
        [0, 1].map(|i| said["predictions"][i]["top"][0]["probability"].as_f64().unwrap())
    };
    let ([a, b], [c, d]) = (probability(""), probability("--test-flip"));
    assert!(a != b && c == d, "{a} {b} {c} {d}");

    let stdout = folder
        .ok("train --model resnet20 --init-from pretrained --train-images 20 --batch-size 10 --epochs 1 --lr 1e-4");
    assert!(stdout.contains("tensors from pretrained, all tensors of the network"), "{stdout}");
}
