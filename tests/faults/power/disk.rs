//! A simulated disk: applies the operations that `preload.c` recorded, and gives what POSIX guarantees after a power cut.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::random::Random;

/// The bytes that a disk writes atomically.
const SECTOR: usize = 512;

/// A recorded file operation; `end` is where its entry ends in the record.
pub(super) struct Operation {
    code: u32,
    descriptor: u32,
    number: u64,
    path: PathBuf,
    to: PathBuf,
    data: Vec<u8>,
    pub(super) end: usize,
}

/// The same numbers as in `preload.c`.
mod code {
    pub(super) const OPEN: u32 = 1;
    pub(super) const CLOSE: u32 = 2;
    pub(super) const WRITE: u32 = 3;
    pub(super) const TRUNCATE: u32 = 4;
    pub(super) const SYNC: u32 = 5;
    pub(super) const RENAME: u32 = 6;
    pub(super) const UNLINK: u32 = 7;
    pub(super) const MKDIR: u32 = 8;
    pub(super) const RMDIR: u32 = 9;
}

const O_CREAT: u64 = 0o100;
const O_TRUNC: u64 = 0o1000;

/// Parses the record; a last entry that the kill cut off is left out.
pub(super) fn read(record: &[u8]) -> Vec<Operation> {
    let mut entries = Vec::new();
    let mut rest = record;
    let mut take = |n: usize| {
        let (taken, others) = rest.split_at_checked(n)?;
        rest = others;
        Some((taken.to_vec(), record.len() - others.len()))
    };
    let long = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let short = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    loop {
        let mut entry = || {
            let (head, _) = take(16)?;
            let mut text = || {
                let (length, _) = take(8)?;
                take(long(&length) as usize)
            };
            let ((path, _), (to, _), (data, end)) = (text()?, text()?, text()?);
            let path_of = |bytes: Vec<u8>| PathBuf::from(String::from_utf8(bytes).unwrap());
            Some(Operation {
                code: short(&head[..4]),
                descriptor: short(&head[4..8]),
                number: long(&head[8..]),
                path: path_of(path),
                to: path_of(to),
                data,
                end,
            })
        };
        match entry() {
            Some(entry) => entries.push(entry),
            None => return entries,
        }
    }
}

/// What a name refers to: the folder at its path, or a file by its index.
#[derive(Clone, Copy, PartialEq)]
enum Node {
    Folder,
    File(usize),
}

#[derive(Default)]
struct Folder {
    flushed: BTreeMap<String, Node>,
    /// Changes since the last flush, in order.
    unflushed: Vec<EntryChange>,
}

/// A change of a folder's entry; `None` removes it. Both halves of a rename have one number, because a file system
/// without a journal, which could lose one of them, is not supported.
#[derive(Clone)]
struct EntryChange {
    name: String,
    node: Option<Node>,
    number: usize,
}

#[derive(Default)]
struct FileContent {
    flushed: Vec<u8>,
    unflushed: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

pub(super) struct Disk {
    root: PathBuf,
    folders: BTreeMap<PathBuf, Folder>,
    files: Vec<FileContent>,
    open: HashMap<u32, (PathBuf, Option<Node>)>,
    n_steps: usize,
}

impl Folder {
    fn current(&self, name: &str) -> Option<Node> {
        let last = self.unflushed.iter().rev().find(|step| step.name == name);
        last.map_or_else(|| self.flushed.get(name).copied(), |step| step.node)
    }
}

fn apply_entry_change(entries: &mut BTreeMap<String, Node>, step: EntryChange) {
    match step.node {
        Some(node) => entries.insert(step.name, node),
        None => entries.remove(&step.name),
    };
}

fn apply_change(bytes: &mut Vec<u8>, change: Change) {
    match change {
        Change::Write(at, data) => {
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[at..at + data.len()].copy_from_slice(&data);
        }
        Change::Truncate(length) => bytes.resize(length, 0),
    }
}

impl Disk {
    /// A disk with everything below `root`, all of it flushed.
    pub(super) fn load(root: &Path) -> Self {
        let mut disk = Self {
            root: root.to_owned(),
            folders: BTreeMap::new(),
            files: Vec::new(),
            open: HashMap::new(),
            n_steps: 0,
        };
        disk.load_folder(root);
        disk
    }

    fn load_folder(&mut self, path: &Path) {
        let mut folder = Folder::default();
        for entry in fs::read_dir(path).unwrap() {
            let (path, name) = split(&entry.unwrap().path());
            let whole = path.join(&name);
            let node = if whole.is_dir() {
                self.load_folder(&whole);
                Node::Folder
            } else {
                self.files.push(FileContent {
                    flushed: fs::read(&whole).unwrap(),
                    unflushed: Vec::new(),
                });
                Node::File(self.files.len() - 1)
            };
            folder.flushed.insert(name, node);
        }
        self.folders.insert(path.to_owned(), folder);
    }

    /// Name and content of the flushed files of a folder.
    pub(super) fn contents(&self, folder: &str) -> Vec<(String, Vec<u8>)> {
        let folder = &self.folders[&self.root.join(folder)].flushed;
        let files = folder.iter().filter_map(|(name, node)| match node {
            Node::File(number) => Some((name.clone(), self.files[*number].flushed.clone())),
            Node::Folder => None,
        });
        files.collect()
    }

    fn node(&self, path: &Path) -> Option<Node> {
        let (folder, name) = split(path);
        self.folders.get(&folder)?.current(&name)
    }

    fn set(&mut self, path: &Path, node: Option<Node>) {
        let (folder, name) = split(path);
        let folder = self.folders.get_mut(&folder);
        let folder = folder.expect("the folder was created before");
        let number = self.n_steps;
        folder.unflushed.push(EntryChange { name, node, number });
    }

    pub(super) fn apply(&mut self, entry: &Operation) {
        self.n_steps += 1;
        match entry.code {
            code::OPEN => self.open_file(entry),
            code::CLOSE => {
                self.open.remove(&entry.descriptor);
            }
            code::WRITE | code::TRUNCATE => {
                let number = entry.number as usize;
                let change = if entry.code == code::WRITE {
                    Change::Write(number, entry.data.clone())
                } else {
                    Change::Truncate(number)
                };
                let Some((_, Some(Node::File(file)))) = self.open.get(&entry.descriptor) else {
                    panic!("a write to a file that was never opened");
                };
                self.files[*file].unflushed.push(change);
            }
            code::SYNC => self.flush(entry.descriptor),
            code::RENAME => {
                let node = self.node(&entry.path);
                assert!(node != Some(Node::Folder), "a folder is renamed");
                self.set(&entry.to, node);
                self.set(&entry.path, None);
            }
            code::UNLINK | code::RMDIR => self.set(&entry.path, None),
            code::MKDIR => {
                self.set(&entry.path, Some(Node::Folder));
                self.folders.insert(entry.path.clone(), Folder::default());
            }
            other => panic!("operation {other}"),
        }
    }

    fn open_file(&mut self, entry: &Operation) {
        let mut node = self.node(&entry.path);
        if node.is_none() && entry.number & O_CREAT != 0 {
            self.files.push(FileContent::default());
            node = Some(Node::File(self.files.len() - 1));
            self.set(&entry.path, node);
        }
        if let Some(Node::File(file)) = node
            && entry.number & O_TRUNC != 0
        {
            self.files[file].unflushed.push(Change::Truncate(0));
        }
        self.open
            .insert(entry.descriptor, (entry.path.clone(), node));
    }

    fn flush(&mut self, descriptor: u32) {
        let (path, node) = &self.open[&descriptor];
        if let Some(Node::File(file)) = node {
            let content = &mut self.files[*file];
            for step in std::mem::take(&mut content.unflushed) {
                apply_change(&mut content.flushed, step);
            }
        } else {
            let folder = self.folders.get_mut(path).expect("an open folder is known");
            for step in std::mem::take(&mut folder.unflushed) {
                apply_entry_change(&mut folder.flushed, step);
            }
        }
    }

    /// Writes what a power cut leaves into `target`: all that was flushed, and with `random` some of the rest.
    pub(super) fn write_after_power_cut(&self, mut random: Option<&mut Random>, target: &Path) {
        let steps = 0..=self.n_steps;
        let chosen: Vec<bool> = match &mut random {
            Some(random) => steps.map(|_| random.coin()).collect(),
            None => Vec::new(),
        };
        self.write_folder((&self.root, target), &chosen, &mut random);
    }

    fn write_folder(
        &self,
        (path, target): (&Path, &Path),
        chosen: &[bool],
        random: &mut Option<&mut Random>,
    ) {
        fs::create_dir_all(target).unwrap();
        let folder = &self.folders[path];
        let mut entries = folder.flushed.clone();
        if random.is_some() {
            let written = folder.unflushed.iter().filter(|step| chosen[step.number]);
            written.for_each(|step| apply_entry_change(&mut entries, step.clone()));
        }
        for (name, node) in entries {
            match node {
                Node::Folder => {
                    let below = (&*path.join(&name), &*target.join(&name));
                    self.write_folder(below, chosen, random);
                }
                Node::File(file) => {
                    fs::write(target.join(&name), self.files[file].after_power_cut(random))
                        .unwrap();
                }
            }
        }
    }
}

impl FileContent {
    fn after_power_cut(&self, random: &mut Option<&mut Random>) -> Vec<u8> {
        let mut bytes = self.flushed.clone();
        let Some(random) = random else { return bytes };
        for step in &self.unflushed {
            match step {
                Change::Truncate(_) if random.coin() => apply_change(&mut bytes, step.clone()),
                Change::Truncate(_) => {}
                Change::Write(at, data) => {
                    // The sectors of one write reach the disk in any order.
                    let sectors = (at / SECTOR)..=((at + data.len()) / SECTOR);
                    for sector in sectors.filter(|_| random.coin()) {
                        let from = (sector * SECTOR).max(*at);
                        let to = ((sector + 1) * SECTOR).min(at + data.len());
                        let part = data[from - at..to.max(from) - at].to_vec();
                        apply_change(&mut bytes, Change::Write(from, part));
                    }
                }
            }
        }
        bytes
    }
}

fn split(path: &Path) -> (PathBuf, String) {
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    (path.parent().unwrap().to_owned(), name)
}
