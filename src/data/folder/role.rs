//! What the name of a folder says about the pictures in it.

/// What the pictures of a folder are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Train,
    Validation,
    Test,
    /// `eval`, `evaluation`: some authors call the test set so, others the validation set.
    Evaluation,
}

const ROLES: [(Role, &[&str]); 4] = [
    (Role::Train, &["train", "training", "trainval", "trn"]),
    (Role::Validation, &["val", "valid", "validation", "validate", "vali", "dev", "devel", "development"]),
    (Role::Test, &["test", "testing", "tst", "holdout"]),
    (Role::Evaluation, &["eval", "evaluation"]),
];

/// Words for splits that are rarely classes.
const USUAL_SPLITS: [&str; 7] = ["test", "testing", "val", "valid", "validation", "eval", "evaluation"];

/// Words that name no class.
const FILLERS: [&str; 25] = [
    "set", "sets", "data", "dataset", "datasets", "image", "images", "img", "imgs", "picture", "pictures", "pic",
    "pics", "photo", "photos", "sample", "samples", "split", "folder", "dir", "files", "jpg", "jpeg", "png", "full",
];

/// Words for pictures that describe other pictures.
const ANNOTATIONS: [&str; 16] = [
    "annotation",
    "annotations",
    "bbox",
    "bboxes",
    "gt",
    "label",
    "labels",
    "mask",
    "masks",
    "segmentation",
    "segmentations",
    "segmentationclass",
    "segmentationobject",
    "trimap",
    "trimaps",
    "truth",
];

/// Words for one part of many: `images_001`, `HAM10000_images_part_1`.
const PARTS: [&str; 12] =
    ["part", "batch", "chunk", "shard", "images", "image", "imgs", "img", "pictures", "picture", "photos", "photo"];

/// The role in a name and its other words: `seg_train` is (`Train`, `seg`), `Training Set 2` is (`Train`, ``).
///
/// `None` without a word for a role or with words for two.
pub fn role(name: &str) -> Option<(Role, String)> {
    let (mut role, mut others) = (None, Vec::new());
    for word in words(name) {
        match role_of(&word) {
            Some(found) if role.is_none_or(|role| role == found) => role = Some(found),
            Some(_) => return None,
            None if is_filler(&word) => {}
            None => others.push(word),
        }
    }
    Some((role?, others.join(" ")))
}

/// Whether a name says only that there are pictures: `images`, `dataset 2`.
pub fn is_generic(name: &str) -> bool {
    let words = words(name);
    words.iter().all(|word| is_filler(word)) && words.iter().any(|word| !is_number(word))
}

/// Whether a name is that of a split and of no class: `test_images`, but not `test` or `litmus_test`.
pub fn is_only_split(name: &str) -> bool {
    let is_alone = |word: &String| is_number(word) || ROLES.iter().any(|(_, words)| words.contains(&word.as_str()));
    role(name).is_some_and(|(_, others)| others.is_empty()) && !words(name).iter().all(is_alone)
}

/// Whether a name is rather that of a split than of a class: `test` or `Validation 2`, but not `train` or `development`.
pub fn is_rather_split(name: &str) -> bool {
    let is_usual = |word: &String| USUAL_SPLITS.contains(&word.as_str());
    role(name).is_some_and(|(_, others)| others.is_empty()) && words(name).iter().any(is_usual)
}

/// Whether a name says that the pictures describe others: `annotations`, `PedMasks`.
pub fn is_annotation(name: &str) -> bool {
    words(name).iter().any(|word| ANNOTATIONS.contains(&word.as_str()))
}

/// The words of a name without its number, if it is the name of one part of many: `images_001`.
pub fn part_of(name: &str) -> Option<String> {
    let (numbers, others): (Vec<String>, Vec<String>) = words(name).into_iter().partition(|word| is_number(word));
    let is_part = !numbers.is_empty() && others.iter().any(|word| PARTS.contains(&word.as_str()));
    is_part.then(|| others.join(" "))
}

/// One filler or two: `jpegimages`.
fn is_filler(word: &str) -> bool {
    let after =
        |filler: &&str| word.strip_prefix(*filler).is_some_and(|rest| rest.is_empty() || FILLERS.contains(&rest));
    FILLERS.iter().any(after) || is_number(word)
}

fn is_number(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
}

/// The role of one word, which may have a filler at its end or start: `trainset`, `imgstrain`.
fn role_of(word: &str) -> Option<Role> {
    let exactly = |word: &str| ROLES.iter().find(|(_, words)| words.contains(&word)).map(|(role, _)| *role);
    let without = |filler: &&str| {
        let rest = word.strip_suffix(*filler).or_else(|| word.strip_prefix(*filler))?;
        exactly(rest)
    };
    exactly(word).or_else(|| FILLERS.iter().find_map(without))
}

/// The words of a name in lower case: letters and digits, divided at other characters, between letters and digits, and
/// where a capital follows a small letter.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut last = ' ';
    for letter in name.chars() {
        let divides = last.is_lowercase() && letter.is_uppercase() || last.is_numeric() != letter.is_numeric();
        if !letter.is_alphanumeric() || divides {
            words.push(String::new());
        }
        if letter.is_alphanumeric() {
            words.last_mut().expect("never empty").extend(letter.to_lowercase());
        }
        last = letter;
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_spelling() {
        use Role::*;
        for (name, expected) in [
            ("train", Train),
            ("Training", Train),
            ("TRAIN", Train),
            ("training_set", Train),
            ("Training Set", Train),
            ("train-set", Train),
            ("trainset", Train),
            ("TrainSet", Train),
            ("trainingData", Train),
            ("train2017", Train),
            ("1_train", Train),
            ("01.train", Train),
            ("images_train", Train),
            ("test1", Test),
            ("test_images", Test),
            ("Testing", Test),
            ("TestImages", Test),
            ("test-full", Test),
            ("holdout", Test),
            ("valid", Validation),
            ("Validation", Validation),
            ("val_set", Validation),
            ("dev", Validation),
            ("eval", Evaluation),
            ("Evaluation", Evaluation),
        ] {
            assert_eq!(role(name), Some((expected, String::new())), "{name}");
        }
        for (name, expected, others) in [
            ("seg_train", Train, "seg"),
            ("asl_alphabet_test", Test, "asl alphabet"),
            ("freight train", Train, "freight"),
            ("test-multiple_fruits", Test, "multiple fruits"),
            ("train_32x32", Train, "x"),
        ] {
            assert_eq!(role(name), Some((expected, others.to_string())), "{name}");
        }
        for name in
            ["strain", "contest", "latest", "invalid", "devil", "trainer", "cat", "", "2021", "train_test", "images"]
        {
            assert_eq!(role(name), None, "{name}");
        }
        assert!(is_generic("images") && is_generic("Data Set 2"));
        assert!(is_generic("JPEGImages") && !is_generic("cats") && !is_generic("7"));
        for name in ["test_images", "Training Set", "trainset", "val-data"] {
            assert!(is_only_split(name), "{name}");
        }
        for name in ["test", "train 2", "litmus_test", "images"] {
            assert!(!is_only_split(name), "{name}");
        }
        assert!(["test", "Testing", "val 2", "test_images"].iter().all(|name| is_rather_split(name)));
        assert!(!["train", "dev", "litmus_test", "cats"].iter().any(|name| is_rather_split(name)));
        assert!(
            ["Annotations", "PedMasks", "SegmentationClass", "ground_truth"].iter().all(|name| is_annotation(name))
        );
        assert!(!is_annotation("unmasked") && !is_annotation("images"));
        assert_eq!(part_of("images_001").as_deref(), Some("images"));
        assert_eq!(part_of("HAM10000_images_part_2").as_deref(), Some("ham images part"));
        for name in ["Sample001", "images", "class_1", "7"] {
            assert_eq!(part_of(name), None, "{name}");
        }
    }
}
