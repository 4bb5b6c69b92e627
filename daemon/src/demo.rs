//! demo
pub mod broker;
mod packet;
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    pub exit: bool,
}
pub async fn run(_a: Args, _o: &mut impl std::io::Write) -> Result<bool, std::io::Error> {
    Ok(true)
}
