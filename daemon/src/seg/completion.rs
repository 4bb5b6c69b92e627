//! When a series is complete. This is a guess: DICOM does not say how many images a series has.
//!
//! It is released, or quiet, or large. Released: the association that delivered all of its images has
//! ended; one image says nothing, because some senders take an association for each, and with images
//! from elsewhere it is unknown what else is on its way. Quiet: none
//! of its images came for `quiet_s`. In both cases what had been accepted by then must be through the
//! inference thread, so a backlog splits no series. Counted from this start: a clock that jumps changes
//! nothing, and a restart begins the quiet time anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::config;
use crate::outbox::job::JobNumber;

#[derive(Debug)]
pub(super) struct Completion {
    quiet: Duration,
    on_release: bool,
    series_max_images: usize,
    open_max_series: usize,
    seen: HashMap<String, SeriesState>,
    releases: Vec<BTreeSet<JobNumber>>,
}

/// A series at the last look at the outbox.
#[derive(Debug)]
struct SeriesState {
    job_numbers: BTreeSet<JobNumber>,
    since: Instant,
    /// It was quiet, and these jobs were not through yet.
    awaited: Option<BTreeSet<JobNumber>>,
}

impl Completion {
    pub(super) fn new(config: &config::Seg) -> Self {
        Self {
            quiet: Duration::from_secs(config.quiet_s),
            on_release: config.on_release,
            series_max_images: config.series_max_images,
            open_max_series: config.open_max_series,
            seen: HashMap::new(),
            releases: Vec::new(),
        }
    }

    pub(super) fn released(&mut self, job_numbers: Vec<JobNumber>) {
        if self.on_release && job_numbers.len() > 1 {
            self.releases.push(job_numbers.into_iter().collect());
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.seen.is_empty() && self.releases.is_empty()
    }

    /// The series that are complete. One that stays open although it was named here is named again.
    pub(super) fn complete(
        &mut self,
        now: Instant,
        open: &BTreeMap<String, BTreeSet<JobNumber>>,
        unfinished: &BTreeSet<JobNumber>,
    ) -> BTreeSet<String> {
        self.seen.retain(|series, _| open.contains_key(series));
        let mut complete = BTreeSet::new();
        for (series, job_numbers) in open {
            if job_numbers.len() >= self.series_max_images
                || self.is_quiet(now, series, job_numbers, unfinished)
            {
                complete.insert(series.clone());
            }
        }
        complete.extend(self.by_release(open, unfinished));
        let over = open.len().saturating_sub(self.open_max_series);
        let mut oldest: Vec<(&Instant, &String)> = self
            .seen
            .iter()
            .map(|(series, seen)| (&seen.since, series))
            .collect();
        oldest.sort();
        complete.extend(
            oldest
                .into_iter()
                .take(over)
                .map(|(_, series)| series.clone()),
        );
        complete
    }

    fn is_quiet(
        &mut self,
        now: Instant,
        series: &str,
        job_numbers: &BTreeSet<JobNumber>,
        unfinished: &BTreeSet<JobNumber>,
    ) -> bool {
        let seen = self
            .seen
            .entry(series.to_owned())
            .or_insert_with(|| SeriesState {
                job_numbers: job_numbers.clone(),
                since: now,
                awaited: None,
            });
        if seen.job_numbers != *job_numbers {
            seen.job_numbers.clone_from(job_numbers);
            seen.since = now;
            seen.awaited = None;
        }
        if now.duration_since(seen.since) < self.quiet {
            return false;
        }
        let awaited = seen.awaited.get_or_insert_with(|| unfinished.clone());
        awaited.is_disjoint(unfinished)
    }

    fn by_release(
        &mut self,
        open: &BTreeMap<String, BTreeSet<JobNumber>>,
        unfinished: &BTreeSet<JobNumber>,
    ) -> Vec<String> {
        let through = |release: &BTreeSet<JobNumber>| release.is_disjoint(unfinished);
        let mut complete = Vec::new();
        for release in self.releases.iter().filter(|release| through(release)) {
            let all_of = |job_numbers: &BTreeSet<JobNumber>| {
                job_numbers.len() > 1 && job_numbers.is_subset(release)
            };
            let series = open.iter().filter(|(_, job_numbers)| all_of(job_numbers));
            complete.extend(series.map(|(series, _)| series.clone()));
        }
        self.releases.retain(|release| !through(release));
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(edit: impl FnOnce(&mut config::Seg)) -> Completion {
        let mut config = config::Seg {
            quiet_s: 10,
            ..config::Seg::default()
        };
        edit(&mut config);
        Completion::new(&config)
    }

    fn open(series: &[(&str, &[JobNumber])]) -> BTreeMap<String, BTreeSet<JobNumber>> {
        let of = |(name, job_numbers): &(&str, &[JobNumber])| {
            ((*name).to_owned(), job_numbers.iter().copied().collect())
        };
        series.iter().map(of).collect()
    }

    fn job_numbers(numbers: &[JobNumber]) -> BTreeSet<JobNumber> {
        numbers.iter().copied().collect()
    }

    #[test]
    fn a_quiet_series_is_complete_once_what_came_before_is_through() {
        let mut completion = completion(|_| {});
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let none = job_numbers(&[]);
        let one = open(&[("a", &[1])]);
        assert!(completion.complete(at(0), &one, &none).is_empty());
        // Another image begins the time anew.
        let two = open(&[("a", &[1, 2])]);
        assert!(completion.complete(at(9), &two, &none).is_empty());
        assert!(completion.complete(at(18), &two, &none).is_empty());
        // Job number 3 was accepted before the time was over; job number 4 after it.
        assert!(
            completion
                .complete(at(19), &two, &job_numbers(&[3]))
                .is_empty()
        );
        assert!(
            completion
                .complete(at(20), &two, &job_numbers(&[3, 4]))
                .is_empty()
        );
        let complete = completion.complete(at(21), &two, &job_numbers(&[4]));
        assert_eq!(complete, BTreeSet::from(["a".to_owned()]));
        assert!(completion.complete(at(22), &open(&[]), &none).is_empty());
        assert!(completion.is_idle());
    }

    #[test]
    fn a_release_completes_what_it_delivered_once_it_is_through() {
        let mut completion = completion(|_| {});
        let now = Instant::now();
        completion.released(vec![1, 2, 5]);
        let series = open(&[("a", &[1, 2]), ("b", &[3, 4]), ("c", &[5])]);
        assert!(
            completion
                .complete(now, &series, &job_numbers(&[2]))
                .is_empty()
        );
        let complete = completion.complete(now, &series, &job_numbers(&[6]));
        assert_eq!(complete, BTreeSet::from(["a".to_owned()]));
        // An association of one image says nothing, and nothing is said twice.
        completion.released(vec![3]);
        // Nor does one of several that deliver a series.
        completion.released(vec![3, 6]);
        assert!(
            completion
                .complete(now, &series, &job_numbers(&[]))
                .is_empty()
        );
    }

    #[test]
    fn too_many_images_or_series_are_taken_for_complete() {
        let mut completion = completion(|config| {
            config.series_max_images = 3;
            config.open_max_series = 1;
        });
        let now = Instant::now();
        let none = job_numbers(&[]);
        assert!(
            completion
                .complete(now, &open(&[("b", &[1])]), &none)
                .is_empty()
        );
        let later = now + Duration::from_secs(1);
        let series = open(&[("a", &[2]), ("b", &[1])]);
        assert_eq!(
            completion.complete(later, &series, &none),
            BTreeSet::from(["b".to_owned()])
        );
        let large = open(&[("a", &[2, 3, 4])]);
        assert_eq!(
            completion.complete(later, &large, &none),
            BTreeSet::from(["a".to_owned()])
        );
    }

    #[test]
    fn releases_count_only_where_they_are_asked_for() {
        let mut completion = completion(|config| config.on_release = false);
        completion.released(vec![1, 2]);
        assert!(completion.is_idle());
    }
}
