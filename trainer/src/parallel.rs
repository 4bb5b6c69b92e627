//! Training on several GPUs or machines: one process each, started with torchrun's environment variables.
//!
//! Every process (rank) holds all weights and trains on batches of its own; the gradients are added up
//! before each optimizer step, so all take the same step. Rank 0 alone writes, prints and validates.
//! Small values go over TCP in a star around rank 0. So do tensors on the CPU; those on GPUs go through
//! NCCL, with the feature `nccl`. The connections are neither encrypted nor authenticated.

mod environment;
#[cfg(feature = "nccl")]
mod nccl;
mod tcp;

#[cfg(feature = "nccl")]
use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::environment::Environment;
use self::tcp::Links;

/// The processes of a run, as one of them sees it. What it offers to do together, all must do in the
/// same order; it fails when another process ends or was not heard of for two minutes.
pub struct Group {
    rank: usize,
    world: usize,
    local_rank: usize,
    /// `None` for a process that was started alone.
    links: Option<Links>,
    #[cfg(feature = "nccl")]
    comm: RefCell<Option<candle_core::cuda_backend::cudarc::nccl::safe::Comm>>,
}

impl Group {
    /// Meets the others, whom the environment names; without torchrun's variables there are none. Waits for
    /// them up to a minute. A set of variables that is not whole is an error.
    pub fn join() -> Result<Self> {
        let environment = Environment::read(|name| std::env::var(name).ok())?;
        Self::meet(environment, tcp::JOIN)
    }

    fn meet(environment: Option<Environment>, patience: Duration) -> Result<Self> {
        let links = environment.as_ref();
        let links = links.map(|environment| Links::join(environment, patience));
        let (rank, world, local_rank) = environment.map_or((0, 1, 0), |environment| {
            (environment.rank, environment.world, environment.local_rank)
        });
        let links = links.transpose();
        Ok(Self {
            rank,
            world,
            local_rank,
            links: links.with_context(|| format!("rank {rank} of {world} processes"))?,
            #[cfg(feature = "nccl")]
            comm: RefCell::new(None),
        })
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many processes there are.
    pub fn world(&self) -> usize {
        self.world
    }

    /// Which of the processes on its machine this is, from 0: the number of its GPU.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Whether this is the process that writes and prints.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// What every rank gave, in the order of ranks. A number that JSON lacks is an error.
    pub fn exchange<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<Vec<T>> {
        match &self.links {
            Some(links) if self.world > 1 => {
                let all = links.exchange(self.rank, serde_json::to_string(&own)?)?;
                let all = all.iter().map(|text| serde_json::from_str(text));
                Ok(all.collect::<serde_json::Result<_>>()?)
            }
            _ => Ok(vec![own]),
        }
    }

    /// What rank 0 makes, for all; the others wait. Its error ends them too.
    pub fn from_first<T: Serialize + DeserializeOwned>(
        &self,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        // A list of one or none, since `Some(())` is nothing in JSON.
        let own = if self.is_first() {
            vec![make()?]
        } else {
            Vec::new()
        };
        let made = self.exchange(own)?.swap_remove(0).pop();
        made.context("rank 0 sent nothing")
    }

    /// Work that leaves files: rank 0 does it, then the others, who find it done. If rank 0 gives it up
    /// (`None`), so do all.
    pub fn first_then_others<T>(
        &self,
        work: impl FnOnce() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        if self.is_first() {
            let done = work()?;
            self.from_first(|| Ok(done.is_some()))?;
            return Ok(done);
        }
        let done = self.from_first(|| Ok(false))?;
        if done { work() } else { Ok(None) }
    }

    /// An error on all ranks unless all have the same `value` of `what`; `remedy` ends its message.
    pub fn ensure_same(&self, what: &str, value: &str, remedy: &str) -> Result<()> {
        let all = self.exchange(value.to_owned())?;
        let other = all.iter().position(|value| *value != all[0]);
        if let Some(rank) = other {
            bail!(
                "{what} of rank {rank} and rank 0 differ ({} and {}): {remedy}",
                all[rank],
                all[0]
            );
        }
        Ok(())
    }

    /// The sums over all ranks of f32 tensors that lie on one device, with the same bits everywhere.
    /// Without NCCL those of a GPU go through the CPU.
    pub fn sum(&self, tensors: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let (Some(links), Some(first)) = (&self.links, tensors.first()) else {
            return Ok(tensors);
        };
        let (device, is_gpu) = (first.device().clone(), first.device().is_cuda());
        if self.world == 1 && !(cfg!(feature = "nccl") && is_gpu) {
            return Ok(tensors);
        }
        // One message instead of hundreds.
        let flat: Vec<Tensor> = tensors
            .iter()
            .map(Tensor::flatten_all)
            .collect::<candle_core::Result<_>>()?;
        let flat = Tensor::cat(&flat, 0)?.contiguous()?;
        let sum = match &device {
            #[cfg(feature = "nccl")]
            Device::Cuda(gpu) => self.sum_on_gpu(links, gpu, &flat)?,
            _ => {
                let sum = links.sum(self.rank, flat.to_vec1::<f32>()?)?;
                Tensor::from_vec(sum, flat.dim(0)?, &Device::Cpu)?.to_device(&device)?
            }
        };
        let mut start = 0;
        let parts = tensors.iter().map(|tensor| {
            let n_values = tensor.elem_count();
            start += n_values;
            sum.narrow(0, start - n_values, n_values)?
                .reshape(tensor.shape())
        });
        Ok(parts.collect::<candle_core::Result<_>>()?)
    }

    #[cfg(feature = "nccl")]
    fn sum_on_gpu(
        &self,
        links: &Links,
        gpu: &candle_core::CudaDevice,
        flat: &Tensor,
    ) -> Result<Tensor> {
        let mut comm = self.comm.borrow_mut();
        let ready = match comm.take() {
            Some(ready) => ready,
            None => {
                let id = self.from_first(nccl::meeting)?;
                nccl::meet(id, self.rank, self.world, gpu)?
            }
        };
        let sum = nccl::sum(&ready, flat, || links.check())?;
        // After an error it is dropped, which ends its waiting.
        *comm = Some(ready);
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    fn environment(rank: usize, world: usize, port: u16) -> Environment {
        Environment {
            rank,
            world,
            local_rank: rank,
            address: "127.0.0.1".into(),
            port,
        }
    }

    fn free_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    }

    /// What each rank of a group gets out of `work`.
    fn together<T: Send>(world: usize, work: impl Fn(Group) -> T + Sync) -> Vec<T> {
        let port = free_port();
        thread::scope(|scope| {
            let start = |rank| {
                let work = &work;
                scope.spawn(move || {
                    let environment = environment(rank, world, port);
                    work(Group::meet(Some(environment), Duration::from_secs(30)).unwrap())
                })
            };
            let threads: Vec<_> = (0..world).map(start).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    fn read(variables: &[(&str, &str)]) -> Result<Option<Environment>> {
        Environment::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_variables_of_torchrun_are_read() {
        let all = [
            ("RANK", "1"),
            ("WORLD_SIZE", "2"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", "29500"),
        ];
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&all).unwrap(), Some(environment(1, 2, 29500)));
        let store = ("TORCHELASTIC_USE_AGENT_STORE", "True");
        let under_torchrun = [&all[..], &[store]].concat();
        let port = read(&under_torchrun).unwrap().unwrap().port;
        assert_eq!(port, 29501, "the port beside torchrun's own");
        for (name, value) in [("RANK", "two"), ("RANK", "2"), ("MASTER_PORT", "70000")] {
            let changed = all.map(|(known, old)| (known, if known == name { value } else { old }));
            let error = read(&changed).unwrap_err();
            assert!(format!("{error:#}").contains(name), "{error:#}");
        }
        for left_out in 0..all.len() {
            let mut rest = all.to_vec();
            let (name, _) = rest.remove(left_out);
            let error = read(&rest).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{name} is not set")));
        }
    }

    #[test]
    fn tensors_and_values_of_all_ranks_come_together() {
        let got = together(3, |group| {
            let rank = group.rank() as f32;
            let tensors = vec![
                Tensor::new(&[[rank, 0.1], [1.0, 1e-8]], &Device::Cpu).unwrap(),
                Tensor::new(&[10.0 * rank], &Device::Cpu).unwrap(),
            ];
            let sums = group.sum(tensors).unwrap();
            assert_eq!(sums[0].dims(), [2, 2]);
            let first: u8 = group.from_first(|| Ok(7)).unwrap();
            group.from_first(|| Ok(())).unwrap();
            let values = sums.iter().map(|sum| sum.flatten_all().unwrap());
            let values: Vec<Vec<f32>> = values.map(|sum| sum.to_vec1().unwrap()).collect();
            (group.exchange(group.rank()).unwrap(), first, values)
        });
        let sums = vec![vec![3.0, 0.1 + 0.1 + 0.1, 3.0, 3e-8], vec![30.0]];
        assert_eq!(got, vec![(vec![0, 1, 2], 7, sums); 3]);
    }

    #[test]
    fn a_difference_is_named_on_all_ranks() {
        let said = together(3, |group| {
            let value = if group.rank() == 2 { "b" } else { "a" };
            let error = group.ensure_same("the recipes", value, "give all the same");
            error.unwrap_err().to_string()
        });
        let expected = "the recipes of rank 2 and rank 0 differ (b and a): give all the same";
        assert_eq!(said, [expected; 3]);
    }

    #[test]
    fn who_ends_is_named_to_all_others() {
        let said = together(3, |group| {
            if group.rank() == 2 {
                return String::new();
            }
            group.exchange(1).unwrap_err().to_string()
        });
        for said in &said[..2] {
            assert!(said.starts_with("rank 2 has ended"), "{said}");
            assert!(said.ends_with("with --resume"), "{said}");
        }
    }

    #[test]
    fn nobody_waits_for_ever_and_a_stranger_is_sent_away() {
        let patience = Duration::from_millis(300);
        let port = free_port();
        let error = Group::meet(Some(environment(1, 2, port)), patience).err();
        let said = format!("{:#}", error.unwrap());
        assert!(
            said.contains("rank 0 cannot be reached at 127.0.0.1"),
            "{said}"
        );
        let error = thread::scope(|scope| {
            let first = scope.spawn(|| Group::meet(Some(environment(0, 2, port)), patience).err());
            let mut stranger = loop {
                if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                    break stream;
                }
            };
            stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            first.join().unwrap()
        });
        let said = format!("{:#}", error.unwrap());
        assert!(said.contains("rank 1 did not come"), "{said}");
    }
}
