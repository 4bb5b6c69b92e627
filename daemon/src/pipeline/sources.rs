//! Where images come from, all of it running until the daemon stops.

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{PipelineError, flatten};
use crate::config;
use crate::intake::Intake;
use crate::intake::dicom::{self, Port};
use crate::intake::folder::{self, FolderError};
use crate::intake::http;
use crate::mqtt;
use crate::outbox::job::Ticket;
use crate::shutdown::stopped;

/// The ends of the box that images come in at.
pub(super) struct Sources {
    pub(super) folders: Vec<config::Folder>,
    pub(super) ports: Vec<Port>,
    pub(super) http: Option<http::Port>,
    pub(super) requests: mqtt::Requests,
    /// What an earlier run left.
    pub(super) waiting: Vec<Ticket>,
    pub(super) intake: Intake,
}

impl Sources {
    /// Ports answer at once; folders wait until the inference thread has what was left.
    pub(super) async fn run(self, stop: watch::Receiver<bool>) -> Result<(), PipelineError> {
        let mut tasks = JoinSet::new();
        for port in self.ports {
            let run = dicom::run(port, self.intake.clone(), stop.clone());
            tasks.spawn(async { Ok(run.await?) });
        }
        if let Some(port) = self.http {
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
    waiting: Vec<Ticket>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), FolderError> {
    for ticket in waiting {
        tokio::select! {
            sent = intake.tickets.send(ticket) => if sent.is_err() { return Ok(()) },
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
