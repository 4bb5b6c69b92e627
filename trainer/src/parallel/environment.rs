//! Which process of a run this is, as torchrun says it.

use anyhow::{Context, Result, ensure};

/// What torchrun tells a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Environment {
    pub(super) rank: usize,
    pub(super) world: usize,
    pub(super) local_rank: usize,
    pub(super) address: String,
    pub(super) port: u16,
}

impl Environment {
    /// `None` without any of the variables.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        const NAMES: [&str; 5] = [
            "RANK",
            "WORLD_SIZE",
            "LOCAL_RANK",
            "MASTER_ADDR",
            "MASTER_PORT",
        ];
        let values = NAMES.map(&variable);
        if values.iter().all(Option::is_none) {
            return Ok(None);
        }
        let text = |name: &str| {
            variable(name).with_context(|| {
                format!(
                    "{name} is not set, but others of {} are: set all, as torchrun does, or none",
                    NAMES.join(", ")
                )
            })
        };
        let number = |name: &str| {
            let text = text(name)?;
            text.parse::<usize>()
                .with_context(|| format!("{name} is {text:?}: it must be a whole number"))
        };
        let (rank, world, port) = (
            number("RANK")?,
            number("WORLD_SIZE")?,
            number("MASTER_PORT")?,
        );
        ensure!(
            rank < world,
            "RANK is {rank} and WORLD_SIZE {world}: ranks go from 0 to WORLD_SIZE - 1"
        );
        // torchrun itself listens at MASTER_PORT then.
        let taken = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|text| text == "True");
        let port = u16::try_from(port + usize::from(taken)).ok();
        Ok(Some(Self {
            rank,
            world,
            local_rank: number("LOCAL_RANK")?,
            address: text("MASTER_ADDR")?,
            port: port.context("MASTER_PORT must be below 65535")?,
        }))
    }

    pub(super) fn meeting(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }
}
