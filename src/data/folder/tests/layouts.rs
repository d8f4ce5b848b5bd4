//! Layouts that are read, and what is reported about them.

use super::*;

#[test]
fn validation_beside_test_is_read_and_alone_is_the_test() {
    let files = ["train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png"];
    let files = Files::new("splits", &files);
    let found = files.found();
    assert_eq!(files.names(&found.test), ["val/a/2.png 0", "val/b/2.png 1"]);
    assert_eq!(found.validation, None);
    assert_eq!(found.notes(), ["train: train/, 2 classes; test: val/ (there is no other folder to test on)"]);
    files.add("test/a/3.png");
    files.add("test/b/3.png");
    let found = files.found();
    assert_eq!(files.names(&found.test), ["test/a/3.png 0", "test/b/3.png 1"]);
    assert_eq!(files.names(&found.validation.clone().unwrap()), ["val/a/2.png 0", "val/b/2.png 1"]);
    assert_eq!(found.notes(), ["train: train/, 2 classes; validation: val/; test: test/"]);
}

/// Two classes in each of these splits; returns what was recognised.
fn recognised(name: &str, splits: &[&str]) -> String {
    let files = Files::new(name, &[]);
    for split in splits {
        ["cat/1.png", "dog/1.png"].iter().for_each(|file| files.add(&format!("{split}/{file}")));
    }
    let found = files.found();
    assert_eq!(found.classes(), ["cat", "dog"], "{splits:?}");
    assert_eq!((found.train.len(), found.test.len()), (2, 2), "{splits:?}");
    found.notes().join("; ")
}

#[test]
fn splits_in_any_spelling_and_depth() {
    for (splits, expected) in [
        (&["Training", "Testing"][..], "train: Training/, 2 classes; test: Testing/"),
        (&["training_set", "test_set"], "train: training_set/, 2 classes; test: test_set/"),
        (&["Training Set", "test-images"], "train: Training Set/, 2 classes; test: test-images/"),
        (&["train1", "test2"], "train: train1/, 2 classes; test: test2/"),
        (
            &["seg_train/seg_train", "seg_test/seg_test"],
            "train: seg_train/seg_train/, 2 classes; test: seg_test/seg_test/",
        ),
        (&["archive/train", "archive/test"], "train: archive/train/, 2 classes; test: archive/test/"),
        (&["test data/x/TRAIN", "test data/x/TEST"], "train: test data/x/TRAIN/, 2 classes; test: test data/x/TEST/"),
        (&["train/images", "test/images"], "train: train/images/, 2 classes; test: test/images/"),
        (
            &["train/birds/photos", "test/birds/photos"],
            "train: train/birds/photos/, 2 classes; test: test/birds/photos/",
        ),
        (&["train_original", "test"], "train: train_original/, 2 classes; test: test/"),
        (
            &["training", "validation", "evaluation"],
            "train: training/, 2 classes; validation: validation/; test: evaluation/",
        ),
        (&["train", "dev", "test"], "train: train/, 2 classes; validation: dev/; test: test/"),
        (&["train", "eval", "test"], "train: train/, 2 classes; validation: eval/; test: test/"),
        (&["train", "test", "extra"], "train: train/, 2 classes; test: test/; not read: extra/"),
    ] {
        assert_eq!(recognised("spelling", splits), expected);
    }
}

#[test]
fn what_is_beside_the_splits_and_classes_is_reported() {
    let files = ["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"];
    let files = Files::new("strays", &files);
    for stray in [
        "preview.png",
        "train/0.png",
        "test/0.JPG",
        "test/Thumbs.db",
        "labels.csv",
        "__MACOSX/train/a/1.png",
        "train/.DS_Store",
        "train/.ipynb_checkpoints/1-checkpoint.png",
        "pred/pred/1.png",
    ] {
        files.add(stray);
    }
    let notes = [
        "train: train/, 2 classes; test: test/",
        "not read: pred/ (pictures without classes)",
        "3 pictures beside the folders of the classes left out: preview.png, test/0.JPG, train/0.png",
        "5 files left out, hidden or not PNG, JPEG, WebP, BMP, GIF or TIFF: .csv 1, .db 1, __MACOSX 1, hidden 2",
    ];
    assert_eq!(files.found().notes(), notes);
    let files =
        Files::new("strays", &["set/a/1.jpe", "set/a/2.jfif", "set/b/1.png", "set/b/2.png", "set/3.png", "4.png"]);
    let notes = [
        "the data set is in set/",
        "2 pictures beside the folders of the classes left out: 4.png, set/3.png",
        "no test/ or val/: every fifth image of each class, 2 in all, is held out for testing",
    ];
    assert_eq!(files.found().notes(), notes);
}

#[test]
fn classes_may_be_called_like_splits() {
    for names in [
        ["bus", "train"],
        ["control", "test"],
        ["dev", "prod"],
        ["freight train", "passenger train"],
        ["test tube", "training shoe"],
        ["litmus_test", "pregnancy_test"],
    ] {
        let files = Files::new("called", &[]);
        names.iter().for_each(|name| ["1.png", "2.png"].iter().for_each(|file| files.add(&format!("{name}/{file}"))));
        let found = files.found();
        assert_eq!(found.classes(), names);
        assert!(found.notes()[0].starts_with("read as classes, because no other split is beside them: "), "{names:?}");
    }
    // Beside two classes it is rather a split whose pictures have no classes, unless every split has it.
    for split in ["test", "Testing", "val", "valid", "test 2", "evaluation"] {
        let files = ["cats/1.png", "cats/2.png", "dogs/1.png", "dogs/2.png", &format!("{split}/1.png")];
        rejected(&files, &[&format!("found {split}/, which is called like a split: if it is a class, rename it;")]);
    }
    for class in ["train", "dev", "stress_test"] {
        assert_eq!(notes(&["cats/1.png", "cats/2.png", "dogs/1.png", &format!("{class}/1.png")]).len(), 2);
    }
    let three = ["test/1.png", "cats/1.png", "dogs/1.png"];
    let three: Vec<String> = ["train", "test"].iter().flat_map(|s| three.map(|file| format!("{s}/{file}"))).collect();
    let files = Files::new("called", &three.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(files.found().classes(), ["cats", "dogs", "test"]);
    // In splits, too.
    let files = Files::new("called", &["train/train/1.png", "train/test/1.png", "test/train/1.png", "test/test/1.png"]);
    assert_eq!(files.found().classes(), ["test", "train"]);
}

#[test]
fn classes_in_several_folders_are_reported() {
    let outer = "the class of pictures in subfolders is the outer folder: ";
    let files = ["animals/m/in/cat/1.png", "animals/m/in/dog/1.png", "extra/1.png"];
    assert_eq!(notes(&files)[0], format!("{outer}animals/m/in/cat/, animals/m/in/dog/"));
    let files = ["train/animal/cat/1.png", "train/animal/dog/1.png", "train/car/1.png", "test/animal/1.png"];
    let files = [&files[..], &["test/car/1.png"]].concat();
    assert_eq!(notes(&files)[1], format!("{outer}train/animal/cat/, train/animal/dog/"));
    assert_eq!(notes(&["a/x/1.png", "a/x/2.png", "b/1.png"]).len(), 1);
}

#[test]
fn a_class_may_be_called_train() {
    let files = ["train/1.png", "train/steam/2.png", "plane/1.png", "plane/jet/2.png"];
    let files = Files::new("train", &files);
    assert_eq!(files.found().classes(), ["plane", "train"]);
}
