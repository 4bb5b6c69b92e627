//! What systemd is told through sd_notify: ready, alive, reloading, stopping. Without systemd nothing happens.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::status::Status;

pub(crate) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Until the next [`ready`]; the time tells systemd which of several it is.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd cannot be told"),
    }
}

pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Tells the watchdog of the unit, if there is one, that the event loop turns and that no image has been in hand for
/// longer than `image_timeout`. When this ends to be true systemd kills the daemon and starts it again; the image in
/// hand has then used up one of its attempts.
pub(crate) async fn keep_watch(status: Arc<Status>, image_timeout: Duration) {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let mut beat = interval(patience / 3);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stuck = false;
    loop {
        beat.tick().await;
        let is_stuck = status.is_stuck(image_timeout);
        if is_stuck && !stuck {
            tracing::error!(
                "an image is in hand for longer than `pipeline.image_timeout_s`: the watchdog is not told that all is well"
            );
        }
        stuck = is_stuck;
        if !stuck {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

fn notify(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_daemon_is_not_stuck() {
        let status = Status::default();
        assert_eq!(status.in_hand(), Duration::ZERO);
        status.image_taken();
        std::thread::sleep(Duration::from_millis(20));
        assert!(status.in_hand() >= Duration::from_millis(10));
        status.image_done();
        assert_eq!(status.in_hand(), Duration::ZERO);
    }
}
