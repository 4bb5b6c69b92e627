//! Whether the disk that the state directory should lie on is there: a mount point of `/etc/fstab` that nothing is
//! mounted at is an empty folder of the disk below it, and a daemon that starts there begins anew.

use std::fs;
use std::path::{Path, PathBuf};

/// The mount point at or above `path` that `/etc/fstab` names and the system does not have.
pub(crate) fn missing_above(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    missing(&path, &read("/etc/fstab"), &read("/proc/self/mounts"))
}

/// Both texts have the mount point as their second word (fstab(5), proc_pid_mounts(5)).
fn missing(path: &Path, wanted: &str, mounted: &str) -> Option<PathBuf> {
    let mounted: Vec<PathBuf> = points(mounted).collect();
    let above = points(wanted).filter(|point| path.starts_with(point) && point != Path::new("/"));
    above
        .filter(|point| !mounted.contains(point))
        .max_by_key(|point| point.components().count())
}

fn points(text: &str) -> impl Iterator<Item = PathBuf> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let point = line.split_ascii_whitespace().nth(1)?;
        // Swap has none.
        point
            .starts_with('/')
            .then(|| PathBuf::from(unescaped(point)))
    })
}

/// Spaces and the like stand as `\040`.
fn unescaped(word: &str) -> String {
    let mut text = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let digits = after
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match digits {
            Some(code) if code.is_ascii() => {
                text.push(char::from(code));
                rest = &after[3..];
            }
            _ => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_not_mounted_is_named() {
        const FSTAB: &str = "# <file system> <mount point>\n\
            UUID=1 / ext4 errors=remount-ro 0 1\n\
            UUID=2 none swap sw 0 0\n\
            UUID=3 /srv/big\\040disk ext4 noauto 0 2\n\
            UUID=4 /srv ext4 defaults 0 2\n";
        const MOUNTS: &str = "/dev/sda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\n";
        let find = |path: &str, mounts: &str| missing(Path::new(path), FSTAB, mounts);
        let found = |path: &str| Some(PathBuf::from(path));
        assert_eq!(find("/var/lib/scansided", MOUNTS), None);
        assert_eq!(find("/srv/state", MOUNTS), found("/srv"));
        assert_eq!(find("/srv/big disk/state", MOUNTS), found("/srv/big disk"));
        assert_eq!(find("/srvother/state", MOUNTS), None);
        let there = format!("{MOUNTS}/dev/sdb1 /srv ext4 rw 0 0\n");
        assert_eq!(find("/srv/state", &there), None);
        assert_eq!(find("/srv/big disk", &there), found("/srv/big disk"));
    }
}
