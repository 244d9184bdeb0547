//! `hostconfig.json`: how a container is started [moby api/types/container/hostconfig.go `HostConfig`].
//!
//! dockerd reads the first value of the file into its own type and leaves a container out of which a single field is of
//! another type. Nothing here looks at what a field says: all fields of one type are read into one place.

use std::collections::BTreeMap;

use crate::json::{self, JsonError, Words, fields};

/// A list, which may be `null`.
type List<T> = Option<Vec<T>>;
/// An object of texts, which may be `null`.
type Texts = Option<BTreeMap<String, String>>;

/// Reads a file as dockerd does. Tells whether it has settings then; without any it crashes.
///
/// # Errors
/// dockerd cannot read it.
pub(super) fn has_settings(text: &[u8]) -> Result<bool, JsonError> {
    json::first::<Option<HostConfig>>(text).map(|settings| settings.is_some())
}

#[derive(Default)]
struct HostConfig {
    text: String,
    flag: bool,
    maybe_flag: Option<bool>,
    number: i64,
    maybe_number: Option<i64>,
    weight: u16,
    rate: u64,
    list: List<String>,
    words: Words,
    texts: Texts,
    sizes: Vec<u64>,
    log: LogConfig,
    ports: Option<BTreeMap<String, List<Port>>>,
    restart: RestartPolicy,
    mounts: List<Mount>,
    weights: List<Option<Weight>>,
    rates: List<Option<Rate>>,
    devices: List<Device>,
    requests: List<DeviceRequest>,
    limits: List<Option<Limit>>,
}
fields!(HostConfig {
    "Binds" => list, "ContainerIDFile" => text, "LogConfig" => log, "NetworkMode" => text, "PortBindings" => ports,
    "RestartPolicy" => restart, "AutoRemove" => flag, "VolumeDriver" => text, "VolumesFrom" => list,
    "ConsoleSize" => sizes, "Annotations" => texts, "CapAdd" => words, "CapDrop" => words, "CgroupnsMode" => text,
    "Dns" => list, "DnsOptions" => list, "DnsSearch" => list, "ExtraHosts" => list, "GroupAdd" => list,
    "IpcMode" => text, "Cgroup" => text, "Links" => list, "OomScoreAdj" => number, "PidMode" => text,
    "Privileged" => flag, "PublishAllPorts" => flag, "ReadonlyRootfs" => flag, "SecurityOpt" => list,
    "StorageOpt" => texts, "Tmpfs" => texts, "UTSMode" => text, "UsernsMode" => text, "ShmSize" => number,
    "Sysctls" => texts, "Runtime" => text, "Isolation" => text, "Mounts" => mounts, "MaskedPaths" => list,
    "ReadonlyPaths" => list, "Init" => maybe_flag,
    // What it may use (`Resources`).
    "CpuShares" => number, "Memory" => number, "NanoCpus" => number, "CgroupParent" => text, "BlkioWeight" => weight,
    "BlkioWeightDevice" => weights, "BlkioDeviceReadBps" => rates, "BlkioDeviceWriteBps" => rates,
    "BlkioDeviceReadIOps" => rates, "BlkioDeviceWriteIOps" => rates, "CpuPeriod" => number, "CpuQuota" => number,
    "CpuRealtimePeriod" => number, "CpuRealtimeRuntime" => number, "CpusetCpus" => text, "CpusetMems" => text,
    "Devices" => devices, "DeviceCgroupRules" => list, "DeviceRequests" => requests, "MemoryReservation" => number,
    "MemorySwap" => number, "MemorySwappiness" => maybe_number, "OomKillDisable" => maybe_flag,
    "PidsLimit" => maybe_number, "Ulimits" => limits, "CpuCount" => number, "CpuPercent" => number,
    "IOMaximumIOps" => rate, "IOMaximumBandwidth" => rate,
});

#[derive(Default)]
struct LogConfig {
    text: String,
    texts: Texts,
}
fields!(LogConfig { "Type" => text, "Config" => texts });

#[derive(Default)]
struct Port {
    text: String,
}
fields!(Port { "HostIp" => text, "HostPort" => text });

#[derive(Default)]
struct RestartPolicy {
    text: String,
    number: i64,
}
fields!(RestartPolicy { "Name" => text, "MaximumRetryCount" => number });

#[derive(Default)]
struct Weight {
    text: String,
    weight: u16,
}
fields!(Weight { "Path" => text, "Weight" => weight });

#[derive(Default)]
struct Rate {
    text: String,
    rate: u64,
}
fields!(Rate { "Path" => text, "Rate" => rate });

#[derive(Default)]
struct Device {
    text: String,
}
fields!(Device { "PathOnHost" => text, "PathInContainer" => text, "CgroupPermissions" => text });

#[derive(Default)]
struct DeviceRequest {
    text: String,
    number: i64,
    list: List<String>,
    lists: List<List<String>>,
    texts: Texts,
}
fields!(DeviceRequest {
    "Driver" => text, "Count" => number, "DeviceIDs" => list, "Capabilities" => lists, "Options" => texts,
});

#[derive(Default)]
struct Limit {
    text: String,
    number: i64,
}
fields!(Limit { "Name" => text, "Hard" => number, "Soft" => number });

/// [moby api/types/mount/mount.go `Mount`].
#[derive(Default)]
struct Mount {
    text: String,
    flag: bool,
    bind: Option<BindOptions>,
    volume: Option<VolumeOptions>,
    temporary: Option<TmpfsOptions>,
}
fields!(Mount {
    "Type" => text, "Source" => text, "Target" => text, "ReadOnly" => flag, "Consistency" => text,
    "BindOptions" => bind, "VolumeOptions" => volume, "TmpfsOptions" => temporary,
});

#[derive(Default)]
struct BindOptions {
    text: String,
    flag: bool,
}
fields!(BindOptions { "Propagation" => text, "NonRecursive" => flag });

#[derive(Default)]
struct VolumeOptions {
    flag: bool,
    texts: Texts,
    driver: Option<VolumeDriver>,
}
fields!(VolumeOptions { "NoCopy" => flag, "Labels" => texts, "DriverConfig" => driver });

#[derive(Default)]
struct VolumeDriver {
    text: String,
    texts: Texts,
}
fields!(VolumeDriver { "Name" => text, "Options" => texts });

#[derive(Default)]
struct TmpfsOptions {
    number: i64,
    mode: u32,
}
fields!(TmpfsOptions { "SizeBytes" => number, "Mode" => mode });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_another_type() {
        assert_eq!(has_settings(b"null"), Ok(false));
        for good in ["{}", r#"{"CapAdd":"ALL","Memory":null,"Init":null,"Unknown":[1]}"#, r#"{"Mounts":[{}]} x"#] {
            assert_eq!(has_settings(good.as_bytes()), Ok(true), "{good}");
        }
        for bad in [
            "[]",
            "7",
            r#"{"Binds":"/a:/b"}"#,
            r#"{"Memory":"1g"}"#,
            r#"{"Memory":1.5}"#,
            r#"{"Privileged":1}"#,
            r#"{"BlkioWeight":70000}"#,
            r#"{"IOMaximumIOps":-1}"#,
            r#"{"LogConfig":"json-file"}"#,
            r#"{"PortBindings":{"80/tcp":{"HostPort":"80"}}}"#,
            r#"{"Mounts":[{"TmpfsOptions":{"Mode":"0700"}}]}"#,
        ] {
            assert!(has_settings(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
