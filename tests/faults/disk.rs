//! What is on a disk after a power cut: POSIX's promises about what the daemon asked for, as `preload.c` wrote it down.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::random::Random;

/// What a disk writes whole.
const SECTOR: usize = 512;

/// What the daemon asked for; `end` is where its entry ends in the record.
pub(crate) struct Entry {
    operation: u32,
    descriptor: u32,
    number: u64,
    path: PathBuf,
    to: PathBuf,
    data: Vec<u8>,
    pub(crate) end: usize,
}

/// As `preload.c` has them.
mod operation {
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

/// A last entry that the kill cut off is left out.
pub(crate) fn read(record: &[u8]) -> Vec<Entry> {
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
            Some(Entry {
                operation: short(&head[..4]),
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

/// What a name stands for: a folder of this path, or a file by its number.
#[derive(Clone, Copy, PartialEq)]
enum Node {
    Folder,
    File(usize),
}

#[derive(Default)]
struct Folder {
    flushed: BTreeMap<String, Node>,
    /// Since then, in order.
    since: Vec<Step>,
}

/// A name's change; `None` is gone. Both halves of a rename have one number: a file system without a journal, which
/// could do one and lose the other, is none to put a box on.
#[derive(Clone)]
struct Step {
    name: String,
    node: Option<Node>,
    number: usize,
}

#[derive(Default)]
struct Content {
    flushed: Vec<u8>,
    since: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

pub(crate) struct Disk {
    root: PathBuf,
    folders: BTreeMap<PathBuf, Folder>,
    files: Vec<Content>,
    open: HashMap<u32, (PathBuf, Option<Node>)>,
    n_steps: usize,
}

impl Folder {
    fn now(&self, name: &str) -> Option<Node> {
        let last = self.since.iter().rev().find(|step| step.name == name);
        last.map_or_else(|| self.flushed.get(name).copied(), |step| step.node)
    }
}

fn put(entries: &mut BTreeMap<String, Node>, step: Step) {
    match step.node {
        Some(node) => entries.insert(step.name, node),
        None => entries.remove(&step.name),
    };
}

fn change(bytes: &mut Vec<u8>, change: Change) {
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
    /// All that lies there, flushed.
    pub(crate) fn of(root: &Path) -> Self {
        let mut disk = Self {
            root: root.to_owned(),
            folders: BTreeMap::new(),
            files: Vec::new(),
            open: HashMap::new(),
            n_steps: 0,
        };
        disk.take_over(root);
        disk
    }

    fn take_over(&mut self, path: &Path) {
        let mut folder = Folder::default();
        for entry in fs::read_dir(path).unwrap() {
            let (path, name) = split(&entry.unwrap().path());
            let whole = path.join(&name);
            let node = if whole.is_dir() {
                self.take_over(&whole);
                Node::Folder
            } else {
                self.files.push(Content {
                    flushed: fs::read(&whole).unwrap(),
                    since: Vec::new(),
                });
                Node::File(self.files.len() - 1)
            };
            folder.flushed.insert(name, node);
        }
        self.folders.insert(path.to_owned(), folder);
    }

    /// Name and content of the flushed files of a folder.
    pub(crate) fn contents(&self, folder: &str) -> Vec<(String, Vec<u8>)> {
        let folder = &self.folders[&self.root.join(folder)].flushed;
        let files = folder.iter().filter_map(|(name, node)| match node {
            Node::File(number) => Some((name.clone(), self.files[*number].flushed.clone())),
            Node::Folder => None,
        });
        files.collect()
    }

    fn node(&self, path: &Path) -> Option<Node> {
        let (folder, name) = split(path);
        self.folders.get(&folder)?.now(&name)
    }

    fn set(&mut self, path: &Path, node: Option<Node>) {
        let (folder, name) = split(path);
        let folder = self.folders.get_mut(&folder);
        let folder = folder.expect("its folder was made before");
        let number = self.n_steps;
        folder.since.push(Step { name, node, number });
    }

    pub(crate) fn apply(&mut self, entry: &Entry) {
        self.n_steps += 1;
        match entry.operation {
            operation::OPEN => self.open_file(entry),
            operation::CLOSE => {
                self.open.remove(&entry.descriptor);
            }
            operation::WRITE | operation::TRUNCATE => {
                let number = entry.number as usize;
                let change = if entry.operation == operation::WRITE {
                    Change::Write(number, entry.data.clone())
                } else {
                    Change::Truncate(number)
                };
                let Some((_, Some(Node::File(file)))) = self.open.get(&entry.descriptor) else {
                    panic!("a write to a file that was never opened");
                };
                self.files[*file].since.push(change);
            }
            operation::SYNC => self.flush(entry.descriptor),
            operation::RENAME => {
                let node = self.node(&entry.path);
                assert!(node != Some(Node::Folder), "a folder is renamed");
                self.set(&entry.to, node);
                self.set(&entry.path, None);
            }
            operation::UNLINK | operation::RMDIR => self.set(&entry.path, None),
            operation::MKDIR => {
                self.set(&entry.path, Some(Node::Folder));
                self.folders.insert(entry.path.clone(), Folder::default());
            }
            other => panic!("operation {other}"),
        }
    }

    fn open_file(&mut self, entry: &Entry) {
        let mut node = self.node(&entry.path);
        if node.is_none() && entry.number & O_CREAT != 0 {
            self.files.push(Content::default());
            node = Some(Node::File(self.files.len() - 1));
            self.set(&entry.path, node);
        }
        if let Some(Node::File(file)) = node
            && entry.number & O_TRUNC != 0
        {
            self.files[file].since.push(Change::Truncate(0));
        }
        self.open
            .insert(entry.descriptor, (entry.path.clone(), node));
    }

    fn flush(&mut self, descriptor: u32) {
        let (path, node) = &self.open[&descriptor];
        if let Some(Node::File(file)) = node {
            let content = &mut self.files[*file];
            for step in std::mem::take(&mut content.since) {
                change(&mut content.flushed, step);
            }
        } else {
            let folder = self.folders.get_mut(path).expect("an open folder is known");
            for step in std::mem::take(&mut folder.since) {
                put(&mut folder.flushed, step);
            }
        }
    }

    /// Writes what is left into `target`; with luck some of what was not flushed.
    pub(crate) fn after_a_cut(&self, mut luck: Option<&mut Random>, target: &Path) {
        let steps = 0..=self.n_steps;
        let chosen: Vec<bool> = match &mut luck {
            Some(random) => steps.map(|_| random.coin()).collect(),
            None => Vec::new(),
        };
        self.write_folder((&self.root, target), &chosen, &mut luck);
    }

    fn write_folder(
        &self,
        (path, target): (&Path, &Path),
        chosen: &[bool],
        luck: &mut Option<&mut Random>,
    ) {
        fs::create_dir_all(target).unwrap();
        let folder = &self.folders[path];
        let mut entries = folder.flushed.clone();
        if luck.is_some() {
            let lucky = folder.since.iter().filter(|step| chosen[step.number]);
            lucky.for_each(|step| put(&mut entries, step.clone()));
        }
        for (name, node) in entries {
            match node {
                Node::Folder => {
                    let below = (&*path.join(&name), &*target.join(&name));
                    self.write_folder(below, chosen, luck);
                }
                Node::File(file) => {
                    fs::write(target.join(&name), self.files[file].left(luck)).unwrap();
                }
            }
        }
    }
}

impl Content {
    fn left(&self, luck: &mut Option<&mut Random>) -> Vec<u8> {
        let mut bytes = self.flushed.clone();
        let Some(random) = luck else { return bytes };
        for step in &self.since {
            match step {
                Change::Truncate(_) if random.coin() => change(&mut bytes, step.clone()),
                Change::Truncate(_) => {}
                Change::Write(at, data) => {
                    // Sectors of one write reach the disk in any order.
                    let sectors = (at / SECTOR)..=((at + data.len()) / SECTOR);
                    for sector in sectors.filter(|_| random.coin()) {
                        let from = (sector * SECTOR).max(*at);
                        let to = ((sector + 1) * SECTOR).min(at + data.len());
                        let part = data[from - at..to.max(from) - at].to_vec();
                        change(&mut bytes, Change::Write(from, part));
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
