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

/// Words that name no class.
const FILLERS: [&str; 25] = [
    "set", "sets", "data", "dataset", "datasets", "image", "images", "img", "imgs", "picture", "pictures", "pic",
    "pics", "photo", "photos", "sample", "samples", "split", "folder", "dir", "files", "jpg", "jpeg", "png", "full",
];

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
    words.iter().all(|word| is_filler(word)) && words.iter().any(|word| FILLERS.contains(&word.as_str()))
}

fn is_filler(word: &str) -> bool {
    FILLERS.contains(&word) || word.bytes().all(|byte| byte.is_ascii_digit())
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
        assert!(!is_generic("cats") && !is_generic("7"));
    }
}
