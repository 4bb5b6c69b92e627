//! Who imports whom, as the `use` lines and the paths of a crate's sources say it.
//!
//! An arrow leads from a file to the file that defines what it names. `pub use` is no arrow: who imports through it has
//! the arrow to what lies behind. `mod x;` is none either, and what only tests import does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::source::{Word, without_tests, words};
use tests::{read, root};

/// Names from the root of a crate down.
type Names = Vec<String>;

/// The sources of one crate.
pub(super) struct Crate {
    package: &'static str,
    /// Folder of `lib.rs`.
    folder: &'static str,
    /// Each module and its file; that of `main.rs` is called so.
    modules: BTreeMap<Names, String>,
    files: BTreeMap<String, File>,
}

/// What one file says of others.
#[derive(Default)]
struct File {
    module: Names,
    words: Vec<Word>,
    uses: Vec<Use>,
}

struct Use {
    public: bool,
    /// By which the file knows it.
    name: String,
    path: Names,
}

impl Crate {
    pub(super) fn read(package: &'static str, folder: &'static str) -> Self {
        let mut read = Self {
            package,
            folder,
            modules: BTreeMap::new(),
            files: BTreeMap::new(),
        };
        for (name, module) in [("lib.rs", vec![]), ("main.rs", vec!["main.rs".to_owned()])] {
            let path = format!("{folder}/{name}");
            if root().join(&path).exists() {
                read.load(&path, module);
            }
        }
        for path in read.files.keys().cloned().collect::<Vec<_>>() {
            let uses = read.uses_of(&path);
            read.files.get_mut(&path).expect("it was read").uses = uses;
        }
        read
    }

    /// A file and those of its modules.
    fn load(&mut self, path: &str, module: Names) {
        let words = without_tests(&words(&read(path)));
        let below = match path.rsplit_once('/') {
            Some((folder, "lib.rs" | "main.rs" | "mod.rs")) => folder.to_owned(),
            _ => path.trim_end_matches(".rs").to_owned(),
        };
        self.modules.insert(module.clone(), path.to_owned());
        for three in words.windows(3) {
            let [keyword, name, end] = three else {
                continue;
            };
            if keyword.text != "mod" {
                continue;
            }
            let mut child = module.clone();
            child.push(name.text.clone());
            match &*end.text {
                "{" => drop(self.modules.insert(child, path.to_owned())),
                ";" => {
                    let plain = format!("{below}/{}.rs", name.text);
                    let folder = format!("{below}/{}/mod.rs", name.text);
                    let is_plain = root().join(&plain).exists();
                    self.load(if is_plain { &plain } else { &folder }, child);
                }
                _ => {}
            }
        }
        let file = File {
            module,
            words,
            uses: Vec::new(),
        };
        self.files.insert(path.to_owned(), file);
    }

    fn uses_of(&self, path: &str) -> Vec<Use> {
        let words = &self.files[path].words;
        let mut uses = Vec::new();
        for at in 0..words.len() {
            if !is_import(words, at) {
                continue;
            }
            let before = at.checked_sub(1).map_or("", |at| &words[at].text);
            let mut found = Vec::new();
            tree(words, at + 1, &[], &mut found);
            for (written, name) in found {
                let Some(path) = self.absolute(path, &written) else {
                    continue;
                };
                let name = name.or_else(|| path.last().cloned()).unwrap_or_default();
                uses.push(Use {
                    public: before == "pub" || before == ")",
                    name,
                    path,
                });
            }
        }
        uses
    }

    /// Of a path as a file writes it; none for another crate's.
    fn absolute(&self, file: &str, written: &[String]) -> Option<Names> {
        let mut base = self.files[file].module.clone();
        if base == ["main.rs"] {
            base.clear();
        }
        let mut rest = written;
        match &*written.first()?.clone() {
            "crate" => {
                base.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            first => {
                let mut child = base.clone();
                child.push(first.to_owned());
                if first == self.package && file.ends_with("/main.rs") {
                    rest = &rest[1..];
                } else if !self.modules.contains_key(&child) {
                    return None;
                }
            }
        }
        base.extend(rest.iter().cloned());
        if base.last().is_some_and(|name| name == "self") {
            base.pop();
        }
        Some(base)
    }

    /// The file that defines what a path names.
    fn home(&self, path: &[String], depth: usize) -> &str {
        let known = (0..=path.len()).rev();
        let known = known.map(|n| path.split_at(n));
        let mut known = known.filter_map(|(module, rest)| Some((self.modules.get(module)?, rest)));
        let (file, rest) = known.next().expect("the root is a module");
        let Some((name, below)) = rest.split_first() else {
            return file;
        };
        let uses = &self.files[file].uses;
        let door = uses.iter().find(|it| it.public && it.name == *name);
        match door {
            // Deeper than any chain of `pub use` is.
            Some(door) if depth < 8 => {
                let mut path = door.path.clone();
                path.extend(below.iter().cloned());
                self.home(&path, depth + 1)
            }
            _ => file,
        }
    }

    /// From each file to those that it imports from.
    pub(super) fn arrows(&self) -> BTreeSet<(String, String)> {
        let mut arrows = BTreeSet::new();
        for (path, file) in &self.files {
            let imported = file.uses.iter().filter(|it| !it.public);
            let mut named: Vec<Names> = imported.map(|it| it.path.clone()).collect();
            for written in paths(&file.words) {
                let local = file.uses.iter().find(|it| it.name == written[0]);
                named.extend(match local {
                    Some(local) => Some([&local.path, &written[1..]].concat()),
                    None => self.absolute(path, &written),
                });
            }
            for name in named {
                let home = self.home(&name, 0);
                if home != path {
                    arrows.insert((path.clone(), home.to_owned()));
                }
            }
        }
        arrows
    }

    /// Whether `other` is the file of a module that `path` is a part of.
    pub(super) fn is_above(&self, other: &str, path: &str) -> bool {
        let module = &self.files[other].module;
        module.len() < self.files[path].module.len() && self.files[path].module.starts_with(module)
    }

    /// First folder or file below `src`.
    pub(super) fn room<'a>(&self, path: &'a str) -> &'a str {
        let below = Path::new(path).strip_prefix(self.folder);
        let first = below.ok().and_then(|below| below.iter().next());
        let first = first.and_then(|name| name.to_str()).unwrap_or_default();
        first.trim_end_matches(".rs")
    }
}

/// Whether a `use` begins here, not the `use<..>` of a type.
fn is_import(words: &[Word], at: usize) -> bool {
    words[at].text == "use" && words.get(at + 1).is_some_and(|next| next.text != "<")
}

/// The paths of a `use` from the word at `at` on, with the names after `as`; gives the place behind them.
fn tree(
    words: &[Word],
    at: usize,
    prefix: &[String],
    found: &mut Vec<(Names, Option<String>)>,
) -> usize {
    let mut path = prefix.to_vec();
    let mut at = at;
    while let Some(word) = words.get(at) {
        match &*word.text {
            "::" => at += 1,
            "{" => {
                at += 1;
                while words.get(at).is_some_and(|word| word.text != "}") {
                    at = tree(words, at, &path, found);
                    at += usize::from(words.get(at).is_some_and(|word| word.text == ","));
                }
                return at + 1;
            }
            "as" => {
                found.push((path, words.get(at + 1).map(|word| word.text.clone())));
                return at + 2;
            }
            "," | "}" | ";" => break,
            name => {
                path.push(name.to_owned());
                at += 1;
            }
        }
    }
    found.push((path, None));
    at
}

/// Paths of two names and more outside of `use`.
fn paths(words: &[Word]) -> Vec<Names> {
    let is_name = |word: &Word| {
        word.text
            .starts_with(|it: char| it.is_alphabetic() || it == '_')
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at < words.len() {
        if is_import(words, at) {
            while at < words.len() && words[at].text != ";" {
                at += 1;
            }
        }
        let mut path: Names = Vec::new();
        while words.get(at).is_some_and(is_name) {
            path.push(words[at].text.clone());
            at += 1;
            if words.get(at).is_none_or(|word| word.text != "::") {
                break;
            }
            at += 1;
        }
        if path.is_empty() {
            at += 1;
        } else if path.len() > 1 {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_use_is_taken_apart() {
    let words = words("use a::{self, b as c, d::{e, f::*}, g};");
    let mut found = Vec::new();
    tree(&words, 1, &[], &mut found);
    let found: Vec<String> = found
        .into_iter()
        .map(|(path, name)| format!("{} {}", path.join("::"), name.unwrap_or_default()))
        .collect();
    let expected = ["a::self ", "a::b c", "a::d::e ", "a::d::f::* ", "a::g "];
    assert_eq!(found, expected);
}

#[test]
fn paths_are_found_outside_of_use() {
    let found = paths(&words(
        "use a::b; fn c(d: e::F) { g(); self::h::i::<J>(k.l) }",
    ));
    let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["e::F", "self::h::i"]);
}
