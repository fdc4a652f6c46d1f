//! Which images a run of a container needs, and which of them the runtime has. Pure.

use std::collections::BTreeMap;

use clone8s::v1::{Container, PodSpec, volume::Source};

use super::memory::{ImageKnowledge, Memory};
use crate::runtime::ImageRef;

/// An image that must be there before a run is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed<'a> {
    /// As asked for.
    pub image: &'a str,
    /// "Always", "IfNotPresent" or "Never".
    pub pull_policy: &'a str,
}

/// What the next run of a container is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunImages {
    pub own: ImageRef,
    /// By the name of the volume that shows it.
    pub volumes: BTreeMap<String, ImageRef>,
}

/// The images for the next run, or the first that has to be had before.
pub fn found<'a>(
    spec: &'a PodSpec,
    container: &'a Container,
    memory: &Memory,
) -> Result<RunImages, Needed<'a>> {
    let had = |needed: Needed<'a>| match (needed.pull_policy, memory.image(&container.name, needed.image)) {
        (_, Some(ImageKnowledge::Pulled(found)))
        | ("IfNotPresent" | "Never", Some(ImageKnowledge::Present(found))) => Ok(found.clone()),
        _ => Err(needed),
    };
    let own = had(of_container(container))?;
    let volumes = of_volumes(spec, container)
        .map(|(volume, needed)| Ok((volume.to_owned(), had(needed)?)))
        .collect::<Result<_, Needed<'a>>>()?;
    Ok(RunImages { own, volumes })
}

fn of_container(container: &Container) -> Needed<'_> {
    Needed {
        image: &container.image,
        pull_policy: &container.image_pull_policy,
    }
}

/// The images of the volumes that a container mounts, by volume.
fn of_volumes<'a>(
    spec: &'a PodSpec,
    container: &'a Container,
) -> impl Iterator<Item = (&'a str, Needed<'a>)> {
    spec.mounted_volumes(container)
        .filter_map(|volume| match &volume.source {
            Some(Source::Image(image)) => Some((
                volume.name.as_str(),
                Needed {
                    image: &image.reference,
                    pull_policy: &image.pull_policy,
                },
            )),
            _ => None,
        })
}

/// Whether a container wants an image pulled although the runtime has it.
pub fn is_always_pulled(spec: &PodSpec, container: &str, image: &str) -> bool {
    let Some(container) = spec.container(container) else {
        return false;
    };
    let of_volumes = of_volumes(spec, &container).map(|(_, needed)| needed);
    let mut needed = of_volumes.chain([of_container(&container)]);
    needed.any(|needed| needed.image == image && needed.pull_policy == "Always")
}

/// Every image that a pod names.
pub fn named(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let of_volumes = spec.volumes.iter().filter_map(|volume| match &volume.source {
        Some(Source::Image(image)) => Some(image.reference.as_str()),
        _ => None,
    });
    let ephemeral = spec.ephemeral_containers.iter();
    spec.all_containers()
        .map(|container| container.image.as_str())
        .chain(ephemeral.map(|container| container.image.as_str()))
        .chain(of_volumes)
}
