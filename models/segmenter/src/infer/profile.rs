//! Where a graph's time goes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tract_onnx::prelude::*;
use tract_onnx::tract_hir::tract_core::plan;

use super::ops::Ours;
use super::threads::on_one;
use super::{Graph, InferError, image_tensor};

/// All nodes of one operator, or one node.
#[derive(Debug, Clone, PartialEq)]
pub struct OperatorTime {
    pub name: String,
    pub nodes: usize,
    /// Of the run in which they took least.
    pub least: Duration,
    /// Multiplications of operations of ours; 0 where tract computes.
    pub multiplications: u64,
}

/// What [`Graph::profile`] measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Of whole runs, shortest first.
    pub runs: Vec<Duration>,
    /// Longest first.
    pub operators: Vec<OperatorTime>,
}

/// Runs that do not count: new threads take a while to find a core each.
const WARM_UP: usize = 5;

/// Of a run: nodes, time and multiplications by operator or node.
type Times = BTreeMap<String, (usize, Duration, u64)>;

impl Graph {
    /// Runs the graph `runs` times over `chw`, after a few times that do not count, a clock around every node; `by_node` keeps the nodes of an operator
    /// apart.
    pub fn profile(&self, chw: &[f32], runs: usize, by_node: bool) -> Result<Profile, InferError> {
        let mut all: BTreeMap<String, OperatorTime> = BTreeMap::new();
        let mut totals = Vec::with_capacity(runs);
        for _ in 0..WARM_UP {
            on_one(|| self.profile_once(chw, by_node))?;
        }
        for _ in 0..runs {
            let (total, times) = on_one(|| self.profile_once(chw, by_node))?;
            totals.push(total);
            for (name, (nodes, took, multiplications)) in times {
                let entry = all.entry(name.clone()).or_insert(OperatorTime {
                    name,
                    nodes,
                    least: took,
                    multiplications,
                });
                entry.least = entry.least.min(took);
            }
        }
        totals.sort_unstable();
        let mut operators: Vec<OperatorTime> = all.into_values().collect();
        operators.sort_by_key(|it| std::cmp::Reverse(it.least));
        Ok(Profile {
            runs: totals,
            operators,
        })
    }

    fn profile_once(&self, chw: &[f32], by_node: bool) -> Result<(Duration, Times), InferError> {
        let failed = |error: TractError| InferError::Run {
            detail: format!("{error:#}"),
        };
        let mut times = Times::new();
        let input = image_tensor(self.size, chw)?;
        let mut state = self.plan.spawn().map_err(failed)?;
        let start = Instant::now();
        state
            .run_plan_with_eval(tvec!(input.into()), |context, state, node, inputs| {
                let ours = node.op.downcast_ref::<Ours>();
                let work = ours.map_or(0, |ours| {
                    let shapes: Vec<&[usize]> = inputs.iter().map(|it| it.shape()).collect();
                    ours.0.multiplications(&shapes)
                });
                let before = Instant::now();
                let result = plan::eval(context, state, node, inputs);
                let operator = node.op.name().into_owned();
                let name = if by_node {
                    format!("{operator} {}", node.name)
                } else {
                    operator
                };
                let entry = times.entry(name).or_default();
                entry.0 += 1;
                entry.1 += before.elapsed();
                entry.2 += work;
                result
            })
            .map_err(failed)?;
        Ok((start.elapsed(), times))
    }
}
