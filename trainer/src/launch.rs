//! What fine-tuning and distillation do alike before they train: say what trains and what it takes, then open the run
//! folder.

use std::path::Path;

use anyhow::Result;

use crate::cli::Recipe;
use crate::config::Config;
use crate::estimate::{Load, estimate};
use crate::model::{self, Model};
use crate::parallel::Group;
use crate::report;
use crate::run_folder::{Identity, RunFolder, Settings};
use crate::train::Plan;

/// A run that is about to begin.
pub(crate) struct Launch<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) config: &'a Config,
    pub(crate) model: &'a Model,
    pub(crate) plan: &'a Plan,
    pub(crate) load: Load<'a>,
    /// The weights that it starts from.
    pub(crate) start: &'a Path,
}

impl Launch<'_> {
    /// Says what trains, on what (`data`), and what that takes. False for a dry run, which ends here.
    pub(crate) fn describe(&self, data: &str) -> Result<bool> {
        report::say(&model::describe_start(&self.model.loaded, self.start)?);
        report::say(&report::trainable_table(&self.model.loaded.vars));
        report::say(data);
        let needs = estimate(self.model, self.plan, &self.load)?;
        if self.recipe.dry_run {
            report::say(&needs.table());
            report::say(&self.config.to_toml());
            return Ok(false);
        }
        report::say(&needs.line());
        Ok(true)
    }

    pub(crate) fn open_folder(&self, identity: Identity, group: &Group) -> Result<RunFolder> {
        let settings = Settings {
            config: self.config,
            sam: &self.model.config,
        };
        RunFolder::open(self.recipe, settings, identity, group)
    }
}
