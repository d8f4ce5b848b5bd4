//! Layouts that could mean different things or have no classes.

use super::*;

#[test]
fn layouts_that_mean_two_things_or_nothing_are_rejected() {
    let flat = "found pictures without classes in";
    rejected(
        &["train/1.png", "train/2.png", "test/1.png", "l.csv"],
        &[flat, "test/ (1) and train/ (2)", "table (.csv)"],
    );
    rejected(&["train/1.png", "test1/1.png"], &["train/CLASS/", flat]);
    rejected(
        &["train/cat.0.jpg", "train/dog.0.jpg", "train/cat.1.jpg", "train/dog.1.jpg"],
        &[flat, "begin with cat, dog"],
    );
    rejected(&["cat.0.jpg", "cat.1.jpg"], &[flat, "the folder itself (2)"]);
    rejected(&["train/images/1.png", "valid/images/1.png"], &[flat, "train/ (1) and valid/ (1)"]);
    rejected(&["train/a/1.png", "train/b/1.png", "test/1.png"], &["in test/ (1)", "or give", "every fifth"]);
    rejected(&["train/a/1.png", "train/b/1.png", "test/test/1.png"], &["in test/ (1)"]);
    rejected(&["train/a/1.png", "train/b/1.png"], &["found only train/", "every fifth"]);
    rejected(&["test/a/1.png", "test/b/1.png", "val/a/1.png"], &["found only test/, val/"]);
    rejected(&["train/a/1.png", "train/b/1.png", "bus/1.png"], &["found only train/", "name is that of a class"]);
    let two =
        ["train/a/1.png", "train/b/1.png", "Training/a/1.png", "Training/b/1.png", "test/a/1.png", "test/b/1.png"];
    rejected(&two, &["expected one folder of training images, found Training/ and train/"]);
    let two = ["x_train/a/1.png", "x_test/a/1.png", "y_train/a/1.png", "y_test/a/1.png"];
    rejected(&two, &["found x_test/, x_train/, y_test/ and y_train/"]);
    rejected(&["cat/train/1.png", "cat/test/1.png", "dog/train/1.png"], &["found cat/train/, cat/test/; if"]);
    rejected(
        &["a/train/x/1.png", "a/train/y/1.png", "b/test/x/1.png", "b/test/y/1.png"],
        &["found a/train/, b/test/; if"],
    );
    rejected(&["images/1.png", "images/2.png"], &[flat, "in images/ (2)"]);
    rejected(
        &["train/a/1.png", "train/b/1.txt", "test/a/1.png", "test/b/1.png"],
        &["found none in train/b/ (1 file", ".txt 1"],
    );
    let inner = ["amazon/images/a/1.png", "amazon/images/b/1.png", "dslr/images/a/1.png", "dslr/images/b/1.png"];
    rejected(&inner, &["amazon/, dslr/, which all contain folders of the same names (a, b)"]);
    let inner = ["Entrenamiento/a/1.png", "Entrenamiento/b/1.png", "Prueba/a/1.png", "Prueba/b/1.png"];
    rejected(&inner, &["Entrenamiento/, Prueba/, which all contain folders of the same names (a, b)"]);
}

#[test]
fn a_second_copy_of_the_data_set_is_no_class() {
    let copy = "names of those beside";
    rejected(&["no/1.png", "yes/1.png", "brain/no/1.png", "brain/yes/1.png"], &["found brain/, ", copy, "(no, yes)"]);
    rejected(&["no/1.png", "yes/1.png", "x/In/No/1.png", "x/In/Yes/1.png"], &["found x/In/, ", "beside x/ (no, yes)"]);
    rejected(&["a/1.png", "b/1.png", "c/1.png", "d/a/1.png", "d/b/1.png", "d/2.png"], &["found d/, ", "(a, b)"]);
    rejected(&["a/1.png", "copy/a/1.png"], &["found copy/, ", copy]);
    let splits = ["train/a/1.png", "train/b/1.png", "train/train/a/1.png", "train/train/b/1.png"];
    rejected(&[&splits[..], &["test/a/1.png", "test/b/1.png"]].concat(), &["found train/train/, ", copy]);
    // One name of three or more: "other" of two kinds.
    assert_eq!(notes(&["bag/1.png", "bag/2.png", "other/1.png", "shoe/a/1.png", "shoe/other/2.png"]).len(), 2);
    // A folder with its own name is no copy.
    assert_eq!(notes(&["a/a/1.png", "a/b/2.png", "b/b/1.png", "c/2.png"]).len(), 2);
}

#[test]
fn splits_inside_classes_are_found_at_any_depth() {
    let outside = "expected splits outside the classes";
    for between in ["", "m/", "m/images/", "m/x/y/"] {
        let files = ["train/x/1.png", "train/y/1.png", "test/x/1.png", "test/y/1.png"];
        let mut files = files.map(|file| format!("a/{between}{file}")).to_vec();
        files.extend(["b/1.png".to_string(), "a/other/1.png".to_string()]);
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        rejected(&files, &[outside, &format!("found a/{between}train/, a/{between}test/; if")]);
    }
    let two = ["a/m/train/x/1.png", "a/m/test/x/1.png", "b/m/train/x/1.png", "b/m/test/x/1.png"];
    rejected(&two, &[outside, "a/m/train/, a/m/test/, b/m/train/, b/m/test/; if"]);
    rejected(&["a/m/train/x/1.png", "a/m/train/y/1.png", "b/1.png"], &[outside, "found a/m/train/; if"]);
    rejected(&["a/m/train/1.png", "a/m/test/1.png", "b/1.png"], &[outside, "found a/m/train/, a/m/test/; if"]);
    let in_split = ["train/a/m/train/1.png", "train/a/m/test/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"];
    rejected(&in_split, &[outside, "found train/a/m/train/, train/a/m/test/; if"]);
}

#[test]
fn folders_that_are_no_classes_are_rejected() {
    let flat = "found pictures without classes in";
    let set = ["dataset/dew/1.png", "dataset/fog/1.png"];
    for beside in ["test", "Test Images", "extra"] {
        let beside_set = format!("{beside}/1.png");
        rejected(&[set[0], set[1], &beside_set], &[&format!("{flat} {beside}/ (1)"), "dataset alone: every fifth"]);
    }
    rejected(&["data/m/images/cat/1.png", "data/m/images/dog/1.png", "x/1.png"], &["x/ (1)", "data/m/images alone"]);
    for split in ["test_images", "Test Set", "train-data"] {
        let files = ["cat/1.png", "dog/1.png", &format!("{split}/1.png")];
        rejected(&files, &[&format!("found {split}/, which is called like a split")]);
    }
    for folders in [
        &["JPEGImages", "SegmentationClass", "SegmentationObject"][..],
        &["images", "annotations/trimaps"],
        &["Annotation", "PNGImages", "PedMasks"],
        &["img", "ground_truth"],
        &["images_001/images", "images_002/images"],
        &["HAM10000_images_part_1", "HAM10000_images_part_2"],
        &["batch1", "batch2", "batch3"],
        &["train/images", "train/masks", "test/images", "test/masks"],
    ] {
        let files: Vec<String> = folders.iter().map(|folder| format!("{folder}/1.png")).collect();
        let mut files: Vec<&str> = files.iter().map(String::as_str).collect();
        files.push("metadata.csv");
        rejected(&files, &[flat, "labels in a table (.csv) are not read"]);
    }
    for classes in [["mask", "no_mask"], ["Sample001", "Sample002"], ["1", "2"], ["n01440764", "n01443537"]] {
        let files = classes.map(|class| [format!("{class}/1.png"), format!("{class}/2.png")]).concat();
        assert_eq!(notes(&files.iter().map(String::as_str).collect::<Vec<_>>()).len(), 1, "{classes:?}");
    }
}

#[test]
fn the_only_folder_of_pictures_is_named_whole() {
    for folder in ["k", "k/k", "celeba/img_align/img_align"] {
        let files = [format!("{folder}/1.png"), format!("{folder}/2.png")];
        rejected(&[&files[0], &files[1]], &[&format!("found pictures without classes in {folder}/ (2)")]);
    }
}

#[test]
fn splits_without_pictures_are_named() {
    let files = ["test/a/1.png", "test/b/1.png", "train/a/1.heic"];
    rejected(&files, &["found only test/, and no ", "images in train/ (1 file left out", ".heic 1"]);
    let files = ["train/a/1.png", "train/b/1.png", "test/a/1.txt"];
    rejected(&files, &["found only train/, and no ", "images in test/ (1 file left out", "every fifth"]);
    let expected = "train: train/, 2 classes; test: val/ (not test/: expected folders of pictures in a folder called like \
                    train/)";
    let mut files = vec!["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "test/1.png"];
    assert_eq!(notes(&files)[0], expected);
    files[4] = "test/a/1.txt";
    assert_eq!(notes(&files)[0], expected);
}

#[test]
fn classes_beside_two_splits_without_classes_are_named() {
    let renamed = "if they are classes as bus/, rename one of them, for example to class_train/";
    rejected(&["train/1.png", "test/1.png", "bus/1.png"], &["in test/ (1) and train/ (1)", renamed]);
    let files = ["class_train/1.png", "class_train/2.png", "test/1.png", "bus/1.png"];
    assert_eq!(Files::new("renamed", &files).found().classes(), ["bus", "class_train", "test"]);
}

#[test]
fn splits_have_the_same_classes() {
    let files = Files::new("same", &["train/a/1.png", "train/b/1.png", "test/a/1.png"]);
    let message = files.refused();
    assert!(message.ends_with("expected the same classes in train/ and test/; only in train/: b"), "{message}");
    files.add("test/b/1.png");
    files.add("valid/b/1.png");
    files.add("valid/c/1.png");
    let message = files.refused();
    assert!(message.ends_with("in train/ and valid/; only in train/: a; only in valid/: c"), "{message}");
}

#[test]
fn one_picture_of_each_class_leaves_nothing_to_test_on() {
    let files = Files::new("one", &["a/1.png", "b/1.png"]);
    assert!(files.refused().contains("expected at least two images of some class"), "{}", files.refused());
}
