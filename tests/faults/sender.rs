//! DCMTK as the sender: `echoscu` and `storescu`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use phantom::Heart;
use phantom::dicom::Ids;

use crate::site::mosquitto;

/// Both peers are there; else the test is skipped with words, or fails where they are required.
pub(crate) fn dcmtk() -> bool {
    let version = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let found = version("echoscu") && version("storescu");
    if !found {
        assert!(
            std::env::var_os("SCANSIDE_REQUIRE_PEERS").is_none(),
            "DCMTK is not installed and SCANSIDE_REQUIRE_PEERS is set"
        );
        eprintln!("SKIPPED: DCMTK is not installed; C-STORE was NOT tested with it");
    }
    found && mosquitto().is_some()
}

/// The configuration's section for a port at which DCMTK delivers.
pub(crate) fn section(port: u16) -> String {
    format!(
        "\n[[dicom]]\nname = \"scanner\"\nport = {port}\nae_title = \"BOX\"\n\
         check_called_ae_title = true\ncalling_ae_titles = [\"CT1\"]\n"
    )
}

/// `storescu` or `echoscu` to this port of this machine.
pub(crate) fn call(program: &str, port: u16, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(["-v", "-to", "5", "-ta", "20", "-td", "20", "-aec", "BOX"]);
    command.args(args).args(["127.0.0.1", &port.to_string()]);
    command.output().unwrap()
}

/// Delivers files; true when each was answered with success.
pub(crate) fn deliver(port: u16, files: &[PathBuf], args: &[&str]) -> bool {
    let mut command = Command::new("storescu");
    command.args(["-q", "-to", "5", "-ta", "20", "-td", "20"]);
    command.args(["-aet", "CT1", "-aec", "BOX"]).args(args);
    command.args(["127.0.0.1", &port.to_string()]).args(files);
    command.output().unwrap().status.success()
}

/// DICOM files, each another one.
pub(crate) fn phantoms(folder: &Path, count: u32) -> Vec<PathBuf> {
    let write = |number: u32| {
        let phantom = Heart::new(number.into()).slice_sized(1, 3, 0.0, 256);
        let path = folder.join(format!("{number}.dcm"));
        phantom::dicom::write(&path, &phantom, &Ids::new(&phantom, number, 1)).unwrap();
        path
    };
    (0..count).map(write).collect()
}

/// One patient's slices, as a scanner would send them: one series.
pub(crate) fn one_series(folder: &Path, n_slices: usize) -> Vec<PathBuf> {
    let heart = Heart::new(7);
    let write = |index: usize| {
        let phantom = heart.slice_sized(index, n_slices, 0.0, 128);
        let path = folder.join(format!("{index}.dcm"));
        let ids = Ids::new(&phantom, 1, index as u32 + 1);
        phantom::dicom::write(&path, &phantom, &ids).unwrap();
        path
    };
    (0..n_slices).map(write).collect()
}

/// Series of real scanners where they are, phantoms elsewhere.
pub(crate) fn series(folder: &Path) -> Vec<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/dicom_live");
    let mut folders = vec![shared];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let list = if path.is_dir() {
                &mut folders
            } else {
                &mut files
            };
            list.push(path);
        }
    }
    if files.is_empty() {
        assert!(
            std::env::var_os("SCANSIDE_REQUIRE_SHARED").is_none(),
            "../shared/data/dicom_live is not here and SCANSIDE_REQUIRE_SHARED is set"
        );
        eprintln!("SKIPPED: ../shared is not here; phantoms are sent instead of real series");
        return phantoms(folder, 100);
    }
    // DICOMDIR: a list of files, which is no object to store.
    files.retain(|file| !file.ends_with("DIRFILE"));
    files.sort();
    files
}
