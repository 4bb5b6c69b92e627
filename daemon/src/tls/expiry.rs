//! Until when certificates are good, so that it is known before the first scanner is turned away.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::parse_x509_certificate;

use super::{TlsError, certificates};
use crate::clock;
use crate::config::Tls;

/// Time to have a certificate renewed.
const EXPIRY_WARNING: Duration = Duration::from_hours(24 * 30);

/// By file, when the first of the certificates in it ends.
#[derive(Debug, Default, Clone)]
pub(crate) struct Expiries(BTreeMap<PathBuf, SystemTime>);

/// What the dates say now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    Good,
    Soon,
    Over,
}

impl Expiries {
    /// Adds the files of a section.
    pub(crate) fn read(&mut self, tls: &Tls) -> Result<(), TlsError> {
        for path in [&tls.ca_file, &tls.certificate_file].into_iter().flatten() {
            let mut ends = Vec::new();
            for certificate in certificates(path)? {
                // rustls took it, so it is good for TLS whatever this parser says.
                let Ok((_, certificate)) = parse_x509_certificate(&certificate) else {
                    tracing::warn!(file = %path.display(), "a certificate does not say when it expires");
                    continue;
                };
                let end = certificate.validity().not_after.timestamp();
                ends.push(UNIX_EPOCH + Duration::from_secs(end.try_into().unwrap_or(0)));
            }
            if let Some(first) = ends.into_iter().min() {
                self.0.insert(path.clone(), first);
            }
        }
        Ok(())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Path, SystemTime)> {
        self.0.iter().map(|(path, end)| (&**path, *end))
    }

    /// Says in the log what runs out.
    pub(crate) fn warn(&self) {
        for (path, end) in self.iter() {
            let (file, date) = (path.display(), date(end));
            match validity(end, SystemTime::now()) {
                Validity::Good => {}
                Validity::Soon => tracing::warn!(
                    %file, date, "a certificate expires soon; renew it and reload scansided"
                ),
                Validity::Over => tracing::error!(
                    %file, date, "a certificate is expired; renew it and reload scansided"
                ),
            }
        }
    }
}

pub(crate) fn validity(end: SystemTime, now: SystemTime) -> Validity {
    match end.duration_since(now) {
        Ok(left) if left > EXPIRY_WARNING => Validity::Good,
        Ok(_) => Validity::Soon,
        Err(_) => Validity::Over,
    }
}

/// UTC, e.g. `2026-11-24`.
pub(crate) fn date(end: SystemTime) -> String {
    clock::rfc3339(end)[..10].to_owned()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn pem(year: i32) -> String {
        let mut params = CertificateParams::new(vec!["box".into()]).unwrap();
        params.not_after = date_time_ymd(year, 3, 1);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn the_first_certificate_of_a_file_to_end_is_what_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let tls = Tls {
            ca_file: write("ca.pem", pem(2040) + &pem(2030) + &pem(2050)),
            certificate_file: write("box.pem", pem(2027)),
            key_file: None,
        };
        let mut expiries = Expiries::default();
        expiries.read(&tls).unwrap();
        let found: Vec<_> = expiries.iter().map(|(_, end)| date(end)).collect();
        assert_eq!(found, ["2027-03-01", "2030-03-01"]);
    }

    #[test]
    fn a_month_is_left_to_renew_it() {
        let day = |days: u64| UNIX_EPOCH + Duration::from_hours(24 * days);
        for (today, expected) in [
            (69, Validity::Good),
            (70, Validity::Soon),
            (100, Validity::Soon),
            (101, Validity::Over),
        ] {
            assert_eq!(validity(day(100), day(today)), expected, "day {today}");
        }
    }
}
