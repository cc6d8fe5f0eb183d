//! Commands that the node itself runs in containers: exec probes and hooks.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use k8s_openapi::api::core::v1 as core;
use tokio::io::AsyncWrite;

use super::plan::Plan;
use crate::runtime::{Container, ExecCommand, ExecStreams};

/// What is kept of a command's output, to be shown in an event; as upstream keeps of a probe's.
const MAX_OUTPUT: usize = 10 << 10;

/// The names by which a container's image is called as a program: the first word of its command, the
/// image's name, the container's.
pub fn program_names(pod: &core::Pod, container: &str) -> Vec<String> {
    let found = (0..Plan::of(pod).containers.len()).filter_map(|index| Plan::container(pod, index));
    found.filter(|found| found.name == container).flat_map(|found| names(&found)).collect()
}

/// The same for one container.
pub fn names(container: &core::Container) -> Vec<String> {
    let base = |text: &str| text.rsplit('/').next().unwrap_or(text).trim_end_matches(".wasm").to_owned();
    let command = container.command.as_ref().and_then(|words| words.first()).map(|word| base(word));
    let image = container.image.as_deref().map(|image| {
        let name = base(image.split('@').next().unwrap_or(image));
        name.split(':').next().unwrap_or_default().to_owned()
    });
    let mut names: Vec<String> = command.into_iter().chain(image).chain([container.name.clone()]).collect();
    names.retain(|name| !name.is_empty());
    names.dedup();
    names
}

/// Runs a command without input. Its exit code, and what it wrote; the error says why it did not run.
pub async fn run(container: &Arc<dyn Container>, args: &[String], names: &[String]) -> Result<(i32, String), String> {
    let kept = Kept::default();
    let streams = ExecStreams {
        stdin: Box::new(tokio::io::empty()),
        stdout: Box::new(kept.clone()),
        stderr: Box::new(kept.clone()),
        terminal: None,
    };
    let command = ExecCommand { args: args.to_vec(), program_names: names.to_vec() };
    let end = container.exec(command, streams).await?;
    let output = std::mem::take(&mut *kept.0.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((end.code, format!("{}{}", String::from_utf8_lossy(&output), end.message)))
}

/// Keeps the beginning of what is written and takes the rest.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl AsyncWrite for Kept {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_called_by_its_command_its_image_or_its_container() {
        let container = |command: &[&str], image: &str| core::Container {
            name: "main".into(),
            image: Some(image.into()),
            command: Some(command.iter().map(ToString::to_string).collect()),
            ..core::Container::default()
        };
        assert_eq!(
            names(&container(&["/app/serve.wasm"], "registry.example.com:5000/shop/cart:1")),
            ["serve", "cart", "main"]
        );
        assert_eq!(names(&container(&[], "cart@sha256:00")), ["cart", "main"]);
    }
}
