//! Paths of the file, as they are meant from where the daemon runs.

use std::path::{Path, PathBuf};

use super::{Config, Tls};

/// Where systemd puts what `LoadCredential=` names, as the start of a path.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

impl Config {
    pub(super) fn resolve(&mut self, base: &Path) {
        let resolve = |path: &mut PathBuf| *path = base.join(&*path);
        resolve(&mut self.model.bundle);
        self.slot
            .iter_mut()
            .for_each(|slot| resolve(&mut slot.bundle));
        resolve(&mut self.state.directory);
        self.folder
            .iter_mut()
            .for_each(|folder| resolve(&mut folder.directory));
        let seg = self.seg.iter_mut();
        seg.filter_map(|seg| seg.directory.as_mut())
            .for_each(resolve);
        let credentials = std::env::var_os(CREDENTIALS).map(PathBuf::from);
        for path in self.secrets() {
            *path = secret(path, base, credentials.as_deref());
        }
    }

    /// Files that SIGHUP reads again.
    fn secrets(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self {
            dicom,
            http,
            mqtt,
            seg,
            ..
        } = self;
        let (token, http) = match http {
            Some(http) => (http.token_file.as_mut(), http.tls.as_mut()),
            None => (None, None),
        };
        let tls = dicom.iter_mut().filter_map(|dicom| dicom.tls.as_mut());
        let pacs = seg
            .iter_mut()
            .filter_map(|seg| seg.send_to.as_mut()?.tls.as_mut());
        let tls = tls.chain(http).chain(mqtt.tls.as_mut()).chain(pacs);
        let words = [
            token,
            mqtt.username_file.as_mut(),
            mqtt.password_file.as_mut(),
        ];
        words.into_iter().flatten().chain(tls.flat_map(Tls::files))
    }
}

/// systemd tells the directory to the service alone; other commands do not open what lies there.
fn secret(path: &Path, base: &Path, credentials: Option<&Path>) -> PathBuf {
    match (path.strip_prefix(format!("${CREDENTIALS}")), credentials) {
        (Ok(name), Some(directory)) => directory.join(name),
        (Ok(_), None) => path.to_owned(),
        (Err(_), _) => base.join(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_lie_beside_the_file_or_where_systemd_puts_them() {
        let systemd = Some(Path::new("/run/credentials/x"));
        for (path, credentials, expected) in [
            ("token", systemd, "/etc/s/token"),
            ("/a/token", systemd, "/a/token"),
            (
                "$CREDENTIALS_DIRECTORY/token",
                systemd,
                "/run/credentials/x/token",
            ),
            (
                "$CREDENTIALS_DIRECTORY/token",
                None,
                "$CREDENTIALS_DIRECTORY/token",
            ),
        ] {
            let found = secret(Path::new(path), Path::new("/etc/s"), credentials);
            assert_eq!(found, Path::new(expected));
        }
    }
}
