//! The configuration of an image, as dockerd reads it [moby image/image.go `NewFromJSON`].
//!
//! dockerd reads all of it into its own types, and drops an image of which a single field is of another type: it is not
//! listed, its names lead nowhere. So all fields are here, also those that nothing looks at.

use std::collections::BTreeMap;

use crate::json::{GoTime, JsonError, Nothing, Read, Words, fields, read};

/// A list, which may be `null`.
type List<T> = Option<Vec<T>>;

/// The whole of it.
#[derive(Debug, Default)]
pub(crate) struct ImageConfig {
    pub(crate) v1: V1,
    pub(crate) rootfs: Option<RootFs>,
    pub(crate) history: List<Step>,
    os_version: String,
    os_features: List<String>,
}

/// What configurations of version 1 had already.
#[derive(Debug, Default)]
pub(crate) struct V1 {
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) comment: String,
    pub(crate) created: Option<GoTime>,
    pub(crate) container: String,
    pub(crate) container_config: ContainerConfig,
    pub(crate) docker_version: String,
    pub(crate) author: String,
    pub(crate) config: Option<ContainerConfig>,
    pub(crate) architecture: String,
    pub(crate) variant: String,
    pub(crate) os: String,
    pub(crate) size: i64,
}

/// The layers.
#[derive(Debug, Default)]
pub(crate) struct RootFs {
    kind: String,
    pub(crate) diff_ids: List<String>,
}

/// A step of the history.
#[derive(Debug, Default)]
pub(crate) struct Step {
    created: Option<GoTime>,
    pub(crate) created_by: String,
    author: String,
    comment: String,
    pub(crate) empty_layer: bool,
}

/// How a container is run [moby api/types/container/config.go `Config`].
#[derive(Debug, Default)]
pub(crate) struct ContainerConfig {
    pub(crate) hostname: String,
    pub(crate) domainname: String,
    pub(crate) user: String,
    pub(crate) attach_stdin: bool,
    pub(crate) attach_stdout: bool,
    pub(crate) attach_stderr: bool,
    pub(crate) exposed_ports: Option<BTreeMap<String, Nothing>>,
    pub(crate) tty: bool,
    pub(crate) open_stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) env: List<String>,
    pub(crate) cmd: Words,
    pub(crate) healthcheck: Option<Healthcheck>,
    pub(crate) args_escaped: bool,
    pub(crate) image: String,
    pub(crate) volumes: Option<BTreeMap<String, Nothing>>,
    pub(crate) working_dir: String,
    pub(crate) entrypoint: Words,
    pub(crate) network_disabled: bool,
    pub(crate) mac_address: String,
    pub(crate) on_build: List<String>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) stop_signal: String,
    pub(crate) stop_timeout: Option<i64>,
    pub(crate) shell: Words,
}

/// How a container's health is checked; lengths of time are in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Healthcheck {
    pub(crate) test: List<String>,
    pub(crate) interval: i64,
    pub(crate) timeout: i64,
    pub(crate) start_period: i64,
    pub(crate) start_interval: i64,
    pub(crate) retries: i64,
}

fields!(ImageConfig {
    "id" => v1.id,
    "parent" => v1.parent,
    "comment" => v1.comment,
    "created" => v1.created,
    "container" => v1.container,
    "container_config" => v1.container_config,
    "docker_version" => v1.docker_version,
    "author" => v1.author,
    "config" => v1.config,
    "architecture" => v1.architecture,
    "variant" => v1.variant,
    "os" => v1.os,
    "Size" => v1.size,
    "rootfs" => rootfs,
    "history" => history,
    "os.version" => os_version,
    "os.features" => os_features,
});
fields!(V1 {
    "id" => id,
    "parent" => parent,
    "comment" => comment,
    "created" => created,
    "container" => container,
    "container_config" => container_config,
    "docker_version" => docker_version,
    "author" => author,
    "config" => config,
    "architecture" => architecture,
    "variant" => variant,
    "os" => os,
    "Size" => size,
});
fields!(RootFs {
    "type" => kind,
    "diff_ids" => diff_ids,
});
fields!(Step {
    "created" => created,
    "created_by" => created_by,
    "author" => author,
    "comment" => comment,
    "empty_layer" => empty_layer,
});
fields!(ContainerConfig {
    "Hostname" => hostname,
    "Domainname" => domainname,
    "User" => user,
    "AttachStdin" => attach_stdin,
    "AttachStdout" => attach_stdout,
    "AttachStderr" => attach_stderr,
    "ExposedPorts" => exposed_ports,
    "Tty" => tty,
    "OpenStdin" => open_stdin,
    "StdinOnce" => stdin_once,
    "Env" => env,
    "Cmd" => cmd,
    "Healthcheck" => healthcheck,
    "ArgsEscaped" => args_escaped,
    "Image" => image,
    "Volumes" => volumes,
    "WorkingDir" => working_dir,
    "Entrypoint" => entrypoint,
    "NetworkDisabled" => network_disabled,
    "MacAddress" => mac_address,
    "OnBuild" => on_build,
    "Labels" => labels,
    "StopSignal" => stop_signal,
    "StopTimeout" => stop_timeout,
    "Shell" => shell,
});
fields!(Healthcheck {
    "Test" => test,
    "Interval" => interval,
    "Timeout" => timeout,
    "StartPeriod" => start_period,
    "StartInterval" => start_interval,
    "Retries" => retries,
});

/// Why dockerd does not take a configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// It cannot be read.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// It is not that of an image.
    #[error("it has no rootfs")]
    NoRootFs,
}

impl ImageConfig {
    /// Reads a configuration as dockerd does.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub(crate) fn parse(text: &[u8]) -> Result<Read<Self>, ConfigError> {
        let config: Read<Self> = read(text)?;
        match config.value.rootfs {
            Some(_) => Ok(config),
            None => Err(ConfigError::NoRootFs),
        }
    }

    /// Returns the diff IDs of its layers, bottom first, as they stand.
    pub(crate) fn diff_ids(&self) -> &[String] {
        self.rootfs.as_ref().and_then(|rootfs| rootfs.diff_ids.as_deref()).unwrap_or_default()
    }

    /// Tells whether the history has more steps that made a layer than there are layers: then dockerd does not load it, but
    /// keeps one that it has.
    pub(crate) fn has_too_long_a_history(&self) -> bool {
        let steps = self.history.iter().flatten().filter(|step| !step.empty_layer).count();
        steps > self.diff_ids().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_of_docker() {
        let parse = |more: &str| ImageConfig::parse(format!(r#"{{"rootfs":{{"type":"layers"}}{more}}}"#).as_bytes());
        for good in [
            "",
            r#","created":null,"os":null,"variant":null,"history":null,"config":null,"author":null,"Size":null"#,
            r#","config":{"Cmd":"x","Entrypoint":["x"],"Env":null,"Labels":{"a":null},"Volumes":{"/x":{}},"ExposedPorts":{"1/tcp":null}}"#,
            r#","config":{"Healthcheck":{"Test":["NONE"],"Interval":1000,"Retries":-1},"StopTimeout":1,"Unknown":1}"#,
            r#","history":[{"created":"2020-01-02T03:04:05Z","empty_layer":true},null],"moby.buildkit.cache.v0":1,"os.features":[]"#,
        ] {
            assert!(parse(good).is_ok(), "{good}: {:?}", parse(good).err());
        }
        for bad in [
            r#","created":"2020-01-02 03:04:05""#,
            r#","created":1"#,
            r#","config":{"Env":"a=b"}"#,
            r#","config":{"User":0}"#,
            r#","config":{"Labels":{"a":1}}"#,
            r#","config":{"Volumes":{"/x":""}}"#,
            r#","config":{"Healthcheck":{"Interval":"5s"}}"#,
            r#","config":{"StopTimeout":1.5}"#,
            r#","config":{"Cmd":1}"#,
            r#","config":[]"#,
            r#","container_config":"x""#,
            r#","history":{}"#,
            r#","history":[{"empty_layer":1}]"#,
            r#","history":[{"created":""}]"#,
            r#","parent":1"#,
            r#","size":"1""#,
            r#","os.features":"x""#,
            r#","rootfs":{"diff_ids":"x"}"#,
            r#","rootfs":null"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn steps_that_made_layers() {
        let too_long = |history: &str| {
            let text = format!(r#"{{"rootfs":{{"diff_ids":["x"]}},"history":{history}}}"#);
            ImageConfig::parse(text.as_bytes()).expect("a configuration").value.has_too_long_a_history()
        };
        assert!(!too_long(r#"[{"empty_layer":true},{},{"empty_layer":true}]"#));
        assert!(too_long("[{},null]"));
    }
}
