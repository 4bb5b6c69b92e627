//! The tasks that images come from.

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{PipelineError, flatten, grace};
use crate::config::{self, Config};
use crate::intake::Intake;
use crate::intake::dicom;
use crate::intake::folder::{self, FolderError};
use crate::intake::http;
use crate::mqtt;
use crate::outbox::job::JobNumber;
use crate::shutdown::stopped;

/// The ports are open before anything else is done, so that one that is taken is said at once.
pub(super) struct Ports {
    dicom: Vec<dicom::Port>,
    http: Option<http::Port>,
}

impl Ports {
    pub(super) fn open(config: &Config) -> Result<Self, PipelineError> {
        let ports = config.dicom.iter();
        let ports = ports.map(|dicom| dicom::Port::open(dicom, grace(config)));
        Ok(Self {
            dicom: ports.collect::<Result<_, _>>()?,
            http: http::Port::open(config)?,
        })
    }
}

/// Where images come from.
pub(super) struct Sources {
    pub(super) folders: Vec<config::Folder>,
    pub(super) ports: Ports,
    pub(super) requests: mqtt::Requests,
    /// What an earlier run left.
    pub(super) waiting: Vec<JobNumber>,
    pub(super) intake: Intake,
}

impl Sources {
    /// Ports answer at once; folders wait until the inference thread has what was left.
    pub(super) async fn run(self, stop: watch::Receiver<bool>) -> Result<(), PipelineError> {
        let mut tasks = JoinSet::new();
        for port in self.ports.dicom {
            let run = dicom::run(port, self.intake.clone(), stop.clone());
            tasks.spawn(async { Ok(run.await?) });
        }
        if let Some(port) = self.ports.http {
            let run = http::run(port, self.intake.clone(), stop.clone());
            tasks.spawn(async { Ok(run.await?) });
        }
        let requests = self.requests.run(stop.clone());
        tasks.spawn(async { Ok(requests.await?) });
        let folders = run_folders(self.folders, self.intake, self.waiting, stop);
        tasks.spawn(async { Ok(folders.await?) });
        while let Some(ended) = tasks.join_next().await {
            flatten(ended)?;
        }
        Ok(())
    }
}

/// Hands over what an earlier run left, then watches every folder.
async fn run_folders(
    folders: Vec<config::Folder>,
    intake: Intake,
    waiting: Vec<JobNumber>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), FolderError> {
    for job_number in waiting {
        tokio::select! {
            sent = intake.job_numbers.send(job_number) => if sent.is_err() { return Ok(()) },
            () = stopped(&mut stop) => return Ok(()),
        }
    }
    let mut tasks = JoinSet::new();
    for folder in folders {
        tasks.spawn(folder::run(folder, intake.clone(), stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
