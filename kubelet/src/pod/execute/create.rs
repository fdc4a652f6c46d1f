//! Makes a container: its log folder, its variables and its volumes, and what the runtime has to be asked before.

use std::{borrow::Cow, fs};

use clone8s::v1::{Container, PodSpec};

use super::{Executor, Outcome, Subject, ended, failed, refused, unwanted};
use crate::{
    desired::DesiredPod,
    logs,
    pod::{
        cri::{self, RunImage},
        downward::Inputs,
        env,
        memory::FailedStep,
        plan::Action,
        security::{self, ImageUser},
    },
    runtime::{ImageRef, RuntimeError},
    volumes::NewContainer,
};

impl Executor {
    pub(super) async fn create_container(
        &self,
        subject: &Subject,
        pod: &DesiredPod,
        action: &Action,
    ) -> Outcome {
        let Action::CreateContainer {
            container,
            sandbox,
            run,
            images,
            target,
        } = action
        else {
            return Outcome::Done;
        };
        let Some(spec) = pod.spec().container(container).map(Cow::into_owned) else {
            return unwanted(FailedStep::CreateContainer);
        };
        let cgroup = match self.hold(subject, pod, FailedStep::CreateContainer).await {
            Ok(cgroup) => cgroup,
            Err(outcome) => return outcome,
        };
        let has_recursive_read_only = match self.has_recursive_read_only(pod.spec(), &spec).await {
            Ok(has) => has,
            Err(error) => return failed(&error, FailedStep::CreateContainer),
        };
        let (volumes, of, ip) = (self.volumes.clone(), pod.clone(), subject.pod_ip.clone());
        let volume_images = images.volumes.clone();
        let (objects, node) = (self.objects.borrow().clone(), self.surroundings(subject));
        let logs = logs::pod_dir(&self.log_root, &subject.key, &pod.uid()).join(container);
        let prepared = tokio::task::spawn_blocking(move || {
            fs::create_dir_all(&logs)
                .map_err(|cause| format!("cannot make the log folder {}: {cause}", logs.display()))?;
            let inputs = Inputs {
                pod: &of,
                objects: &objects,
                node: &node,
            };
            let envs = env::resolve(&spec, inputs)?;
            let mounts = volumes.mounts(&NewContainer {
                inputs,
                container: &spec,
                variables: &envs,
                images: &volume_images,
                has_recursive_read_only,
                pod_ip: ip.as_deref(),
            });
            let mounts = mounts.map_err(|error| error.to_string())?;
            Ok::<_, String>((spec, mounts, envs))
        })
        .await;
        let refused = |message| refused(FailedStep::PrepareContainer, message);
        let (spec, mounts, envs) = match prepared {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(message)) => return refused(message),
            Err(_) => return refused("preparing the container's volumes was interrupted".to_owned()),
        };
        let facts = match self.facts(pod, cgroup).await {
            Ok(facts) => facts,
            Err(error) => return refused(error.to_string()),
        };
        let user = match self.image_user(pod, &spec, &images.own).await {
            Ok(user) => user,
            Err(message) => return refused(message),
        };
        let image = RunImage {
            reference: &images.own,
            user: user.as_ref(),
        };
        let mut config = match cri::container_config(pod, &spec, run, image, mounts, envs, &facts) {
            Ok(config) => config,
            Err(error) => return refused(error.to_string()),
        };
        if let Some(target) = target {
            cri::show_processes_of(target, &mut config);
        }
        let sandbox_config = cri::sandbox_config(pod, subject.sandbox_attempt, &facts);
        ended(
            self.runtime
                .create_container(sandbox, config, sandbox_config)
                .await,
            FailedStep::CreateContainer,
        )
    }

    /// Asks the runtime, for a container that needs to know.
    async fn has_recursive_read_only(
        &self,
        spec: &PodSpec,
        container: &Container,
    ) -> Result<bool, RuntimeError> {
        let mut mounts = container.volume_mounts.iter();
        if !mounts.any(|mount| matches!(mount.recursive_read_only.as_str(), "IfPossible" | "Enabled")) {
            return Ok(false);
        }
        let status = self.runtime.status().await?;
        let mut handlers = status.runtime_handlers.into_iter();
        let handler = handlers.find(|handler| handler.name == spec.runtime_class_name);
        let features = handler.and_then(|handler| handler.features);
        Ok(features.is_some_and(|features| features.recursive_read_only_mounts))
    }

    /// The image's user, where it must be known; an error where the container must not run as whom it would.
    async fn image_user(
        &self,
        pod: &DesiredPod,
        container: &Container,
        image: &ImageRef,
    ) -> Result<Option<ImageUser>, String> {
        let spec = pod.spec();
        if security::needs_strict_groups(spec) {
            let status = self.runtime.status().await.map_err(|error| error.message)?;
            if !status.features.is_some_and(|it| it.supplemental_groups_policy) {
                return Err(
                    "supplementalGroupsPolicy: the container runtime does not say that it can do \"Strict\""
                        .to_owned(),
                );
            }
        }
        let user = if security::needs_image_user(spec, container) {
            let found = self.runtime.image_status(image.as_str()).await;
            let found = found.map_err(|error| error.message)?;
            let found =
                found.ok_or_else(|| format!("the runtime no longer has image {:?}", container.image))?;
            Some(ImageUser::of(&found))
        } else {
            None
        };
        security::check_user(spec, container, user.as_ref())?;
        Ok(user)
    }
}
