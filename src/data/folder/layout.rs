//! Which folders are splits and which are classes.
//!
//! Names alone do not decide: a class may be called `train` (CIFAR-100 has one) or `test`. A **split** has the name of one
//! and contains folders of pictures, and another split is beside it whose name differs only in the role: `seg_train/` and
//! `seg_test/`. Every other folder with pictures is a class. What can be read both ways is an error.

use super::messages::{Places, joined, shortened};
use super::role::{Role, is_generic, role};
use super::tree::Folder;
use crate::Result;
use std::collections::{BTreeMap, BTreeSet};

/// The folders of a data set; each contains one folder per class.
#[derive(Debug)]
pub struct Layout<'a> {
    pub train: &'a Folder,
    pub validation: Option<&'a Folder>,
    /// `None`: a part of the pictures in `train` is held out.
    pub test: Option<&'a Folder>,
    /// What was recognised and what is not read, in words.
    pub notes: Vec<String>,
}

/// A folder that is called like a split.
struct Named<'a> {
    folder: &'a Folder,
    role: Role,
    /// The other words of the name.
    others: String,
    /// The folder that contains the classes; `None` if there are only pictures.
    classes: Option<&'a Folder>,
}

impl Named<'_> {
    fn is(&self, role: Role) -> bool {
        self.role == role
    }
}

impl<'a> Layout<'a> {
    /// The layout of the data set in `top`, which contains pictures somewhere.
    pub fn of(top: &'a Folder) -> Result<Self> {
        let (places, root) = (Places { top }, innermost(top));
        let mut layout = match splits(&places, root)? {
            Some(layout) => layout,
            None => classes(&places, root)?,
        };
        let read: Vec<&Folder> = [Some(layout.train), layout.validation, layout.test].into_iter().flatten().collect();
        layout.notes.extend(places.strays(&read));
        Ok(layout)
    }
}

/// `folder`, or the only folder with pictures in it, and so on to the folder where the data set begins.
fn innermost(folder: &Folder) -> &Folder {
    let [only] = folder.filled()[..] else { return folder };
    if only.deeper() < only.pictures.len() {
        return folder;
    }
    let inner = innermost(only);
    let is_split = role(&only.name()).is_some() && pair(inner).is_none();
    if inner.filled().len() < 2 || is_split { folder } else { inner }
}

/// The folders in `folder` that are called like splits.
fn named(folder: &Folder) -> Vec<Named<'_>> {
    let mut named = Vec::new();
    for folder in folder.filled() {
        if let Some((role, others)) = role(&folder.name()) {
            named.push(Named { folder, role, others, classes: of_classes(folder) });
        }
    }
    named
}

/// The folder of classes in a folder that is called like a split: itself, or the only folder in it, and so on; `None` if it
/// has pictures without classes.
fn of_classes(split: &Folder) -> Option<&Folder> {
    if split.deeper() == 0 || split.deeper() < split.pictures.len() {
        return None;
    }
    if let [only] = split.filled()[..] {
        if is_generic(&only.name()) || role(&only.name()).is_some() || only.name() == split.name() {
            return of_classes(only);
        }
        if only.pictures.is_empty() {
            return of_classes(only).filter(|inner| inner.filled().len() > 1).or(Some(split));
        }
    }
    Some(split)
}

/// Two folders in `folder` whose names belong together: one for training, one for another purpose.
fn pair(folder: &Folder) -> Option<[&Folder; 2]> {
    let named = named(folder);
    let trains = named.iter().filter(|split| split.is(Role::Train));
    let mut pairs = trains.flat_map(|train| named.iter().map(move |other| (train, other)));
    let found = pairs.find(|(train, other)| !other.is(Role::Train) && train.others == other.others);
    found.map(|(train, other)| [train.folder, other.folder])
}

/// The layout if there are splits in `root`.
fn splits<'a>(places: &Places, root: &'a Folder) -> Result<Option<Layout<'a>>> {
    let named = named(root);
    let with_classes: Vec<&Named> = named.iter().filter(|split| split.classes.is_some()).collect();
    let is_complete = |group: &Vec<&Named>| {
        let trains = group.iter().filter(|split| split.is(Role::Train)).count();
        trains > 0 && trains < group.len()
    };
    let mut groups: BTreeMap<&str, Vec<&Named>> = BTreeMap::new();
    with_classes.iter().for_each(|&split| groups.entry(&split.others).or_default().push(split));
    let mut groups: Vec<Vec<&Named>> = groups.into_values().filter(is_complete).collect();
    // train_original/ and test/: with the same classes they belong together.
    let classes = |split: &&Named| names(split.classes.expect("with classes"));
    if groups.is_empty()
        && is_complete(&with_classes)
        && with_classes.windows(2).all(|w| classes(&w[0]) == classes(&w[1]))
    {
        groups.push(with_classes.clone());
    }
    match &groups[..] {
        [group] => chosen(places, root, group).map(Some),
        [] => no_splits(places, root, &named).map(|()| None),
        _ => {
            let found = joined(groups.iter().flatten().map(|split| places.of(split.folder)));
            let message = format!("expected one folder of training images and one of test images, found {found}");
            Err(places.error(format!("{message}; give a folder that contains only those to use")))
        }
    }
}

/// The names of the folders in a folder.
fn names(folder: &Folder) -> BTreeSet<String> {
    folder.folders.iter().map(Folder::name).collect()
}

/// The layout of a group of splits.
fn chosen<'a>(places: &Places, root: &'a Folder, group: &[&Named<'a>]) -> Result<Layout<'a>> {
    let one = |role: Role, what: &str| match &group.iter().filter(|split| split.is(role)).collect::<Vec<_>>()[..] {
        [] => Ok(None),
        [one] => Ok(one.classes),
        several => {
            let found = joined(several.iter().map(|split| places.of(split.folder)));
            Err(places
                .error(format!("expected one folder of {what} images, found {found}; rename or remove the others")))
        }
    };
    let train = one(Role::Train, "training")?.expect("a complete group");
    let (validation, test) = (one(Role::Validation, "validation")?, one(Role::Test, "test")?);
    let (validation, test) = match (validation, test, one(Role::Evaluation, "evaluation")?) {
        (validation, None, Some(evaluation)) => (validation, Some(evaluation)),
        (None, test, Some(evaluation)) => (Some(evaluation), test),
        (Some(validation), Some(test), Some(evaluation)) => {
            let found = joined([validation, test, evaluation].into_iter().map(|folder| places.of(folder)));
            return Err(places.error(format!("expected one folder for validation and one for testing, found {found}")));
        }
        (validation, test, None) => (validation, test),
    };
    let only_validation = test.is_none();
    let (validation, test) = if only_validation { (None, validation) } else { (validation, test) };
    let mut recognised = format!("train: {}, {} classes", places.of(train), train.folders.len());
    for (role, folder) in [("validation", validation), ("test", test)] {
        recognised += &folder.map_or(String::new(), |folder| format!("; {role}: {}", places.of(folder)));
    }
    if only_validation {
        recognised += " (there is no other folder to test on)";
    }
    let mut notes = vec![recognised];
    let is_used = |folder: &&Folder| group.iter().any(|split| std::ptr::eq(split.folder, *folder));
    let without_classes =
        |folder: &Folder| if of_classes(folder).is_none() { " (pictures without classes)" } else { "" };
    let unused = root.filled().into_iter().filter(|folder| !is_used(folder));
    let unused: Vec<String> =
        unused.map(|folder| format!("{}{}", places.of(folder), without_classes(folder))).collect();
    if !unused.is_empty() {
        notes.push(format!("not read: {}", shortened(&unused)));
    }
    Ok(Layout { train, validation, test, notes })
}

/// Rejects folders that are called like splits and cannot be classes either.
fn no_splits(places: &Places, root: &Folder, named: &[Named]) -> Result<()> {
    let plain = |folder: &&Folder| named.iter().any(|s| std::ptr::eq(s.folder, *folder) && s.others.is_empty());
    if pair(root).is_some() || root.filled().iter().all(plain) && named.iter().any(|split| split.classes.is_none()) {
        let without: Vec<&Folder> = named.iter().filter(|s| s.classes.is_none()).map(|s| s.folder).collect();
        let with = named.iter().find(|split| split.is(Role::Train)).and_then(|split| split.classes);
        return Err(places.without_classes(&without, with));
    }
    let alone: Vec<String> = named
        .iter()
        .filter(|split| split.classes.is_some() && split.folder.pictures.is_empty())
        .map(|split| places.of(split.folder))
        .collect();
    if alone.is_empty() {
        return Ok(());
    }
    Err(places.error(format!(
        "expected train/ and test/ (or val/) with a folder for each class, found only {}; to hold every fifth image of a \
         class out for testing, give the folder that contains the classes; if the name is that of a class, move its \
         pictures out of its subfolders",
        shortened(&alone)
    )))
}

/// The layout if every folder in `root` is a class.
fn classes<'a>(places: &Places, root: &'a Folder) -> Result<Layout<'a>> {
    let filled = root.filled();
    if filled.is_empty() {
        return Err(places.without_classes(&[root], None));
    }
    let mut inside = Vec::new();
    for class in &filled {
        match (pair(class), named(class).iter().find(|s| s.classes.is_some() && s.others.is_empty())) {
            (Some(pair), _) => inside.extend(pair.map(|folder| places.of(folder))),
            (None, Some(split)) => inside.push(places.of(split.folder)),
            (None, None) => {}
        }
    }
    if !inside.is_empty() {
        return Err(places.error(format!(
            "expected splits outside the classes (train/CLASS/ and test/CLASS/), found {}; if a folder contains a whole \
             data set, give that folder",
            shortened(&inside)
        )));
    }
    if let [only] = filled[..]
        && only.deeper() == 0
        && is_generic(&only.name())
    {
        return Err(places.without_classes(&[only], None));
    }
    if let Some(message) = inner_classes(places, &filled) {
        return Err(places.error(message));
    }
    let mut notes = Vec::new();
    if !std::ptr::eq(root, places.top) {
        notes.push(format!("the data set is in {}", places.of(root)));
    }
    let called: Vec<String> = named(root).iter().map(|split| places.of(split.folder)).collect();
    if !called.is_empty() {
        notes.push(format!("read as classes, because no other split is beside them: {}", shortened(&called)));
    }
    let nested = filled.iter().filter(|class| class.pictures.is_empty()).flat_map(|class| class.filled());
    let nested: Vec<String> = nested.map(|folder| places.of(folder)).collect();
    if nested.len() > 1 {
        notes.push(format!("the class of pictures in subfolders is the outer folder: {}", shortened(&nested)));
    }
    Ok(Layout { train: root, validation: None, test: None, notes })
}

/// A message if all `folders` contain folders of the same names: are the outer or the inner ones the classes?
fn inner_classes(places: &Places, folders: &[&Folder]) -> Option<String> {
    if folders.len() < 2 || folders.iter().any(|folder| !folder.pictures.is_empty()) {
        return None;
    }
    let shared = folders.iter().map(|folder| inner_names(folder)).reduce(|a, b| &a & &b)?;
    if shared.len() < 2 {
        return None;
    }
    let outer: Vec<String> = folders.iter().map(|folder| places.of(folder)).collect();
    let shared: Vec<String> = shared.into_iter().collect();
    Some(format!(
        "expected a folder for each class, found {}, which all contain folders of the same names ({}): if the inner \
         folders are the classes, give one of the outer folders, or call them train/ and test/; if the outer folders are, \
         move the pictures out of the inner ones",
        shortened(&outer),
        shortened(&shared)
    ))
}

/// The names of the folders with pictures in `folder`, or in the only folder in it, and so on.
fn inner_names(folder: &Folder) -> BTreeSet<String> {
    match folder.filled()[..] {
        [only] if only.pictures.is_empty() => inner_names(only),
        _ => folder.filled().into_iter().map(Folder::name).collect(),
    }
}
