//! The checks on one object of a configuration: message in, checked type or the first reason against it out.
//!
//! Field by field in `docs/controller-api.md`. What the message does not say takes EVE's default; what Holdfast
//! does not use is not looked at.

use std::collections::BTreeSet;

use holdfast_types::{
    AppGuard, AppId, AppInstanceConfig, AppVolumeRef, ContentTreeConfig, ContentTreeId, DatastoreConfig,
    DatastoreId, DatastoreKind, Format, Generation, Guard, OpsCommand, SnapshotConfig, SnapshotDesc,
    SnapshotId, SnapshotType, UserData, UuidAndVersion, VirtualizationMode, VmConfig, VolumeConfig, VolumeId,
    VolumeKey, VolumeOrigin, read_tags,
};

use super::parse::id;
use super::refusal::{Reason, shown};
use crate::wire::config as wire;

const SHA256_DIGITS: usize = 64;

pub fn app(message: &wire::AppInstanceConfig, app: AppId) -> Result<AppInstanceConfig, Reason> {
    let version = message.uuidandversion.as_ref().map_or("", |pair| &pair.version);
    Ok(AppInstanceConfig {
        id_and_version: UuidAndVersion { id: app, version: version.to_owned() },
        display_name: message.displayname.clone(),
        resources: message.fixedresources.as_ref().map(resources).unwrap_or_default(),
        activate: message.activate,
        volumes: volume_refs(&message.volume_ref_list)?,
        adapters: Vec::new(),
        restart: command(message.restart.as_ref()),
        purge: command(message.purge.as_ref()),
        user_data: Some(message.user_data.as_str()).filter(|data| !data.is_empty()).map(UserData::from),
        cloud_init_version: message.cloud_init_version,
        start_delay_seconds: message.start_delay_in_seconds,
        snapshot: message.snapshot.as_ref().map(snapshot_config).transpose()?.unwrap_or_default(),
        guard: message.holdfast.as_ref().map(guard).unwrap_or_default(),
    })
}

/// [000] L1, L6. Nothing in it refuses the application: a state that is none guards, and a tag that is none is left out;
/// zedmanager says so, on the application.
fn guard(message: &wire::HoldfastAppExtension) -> AppGuard {
    let ha_state = match Guard::read(&message.ha_state) {
        Guard::Unreadable(text) => Guard::Unreadable(shown(&text)),
        readable => readable,
    };
    let mut guard = AppGuard { ha_state, ..AppGuard::default() };
    for tag in message.tags.iter().flat_map(|text| read_tags(text)) {
        match tag {
            Ok(tag) => guard.tags.insert(tag),
            Err(bad) => guard.refused_tags.insert(shown(&bad.text)),
        };
    }
    guard
}

fn command(message: Option<&wire::InstanceOpsCmd>) -> OpsCommand {
    OpsCommand { counter: message.map_or(0, |command| command.counter) }
}

fn resources(message: &wire::VmConfig) -> VmConfig {
    VmConfig {
        kernel: message.kernel.clone(),
        ramdisk: message.ramdisk.clone(),
        memory_kib: message.memory,
        vcpus: message.vcpus,
        extra_args: message.extraargs.clone(),
        virtualization_mode: VirtualizationMode::from(message.virtualization_mode),
        disable_logs: message.disable_logs,
    }
}

/// One disk per volume: a volume given to a guest twice would be written through two caches.
fn volume_refs(messages: &[wire::VolumeRef]) -> Result<Vec<AppVolumeRef>, Reason> {
    let mut seen = BTreeSet::new();
    let mut refs = Vec::with_capacity(messages.len());
    for message in messages {
        let key = volume_key(&message.uuid, message.generation_count)?;
        if !seen.insert(key.volume) {
            return Err(Reason::VolumeUsedTwice { volume: key.volume });
        }
        refs.push(AppVolumeRef {
            volume: key.volume,
            generation: key.generation,
            mount_dir: message.mount_dir.clone(),
        });
    }
    Ok(refs)
}

pub fn volume_key(uuid: &str, generation: i64) -> Result<VolumeKey, Reason> {
    let volume: VolumeId = id(uuid)?;
    if generation < 0 {
        return Err(Reason::NegativeGeneration { volume, generation });
    }
    Ok(VolumeKey { volume, generation: Generation(generation) })
}

/// [003] A1. The maximum is handed on as it is, 0 too: zedmanager judges it against what there is.
fn snapshot_config(message: &wire::SnapshotConfig) -> Result<SnapshotConfig, Reason> {
    let active = match message.active_snapshot.as_str() {
        "" => None,
        text => Some(id::<SnapshotId>(text)?),
    };
    let mut seen = BTreeSet::new();
    let mut snapshots = Vec::with_capacity(message.snapshots.len());
    for listed in &message.snapshots {
        let snapshot: SnapshotId = id(&listed.id)?;
        if !seen.insert(snapshot) {
            return Err(Reason::SnapshotListedTwice { snapshot });
        }
        let kind = SnapshotType::try_from(listed.r#type)
            .map_err(|_| Reason::UnknownSnapshotType { snapshot, number: listed.r#type })?;
        snapshots.push(SnapshotDesc { id: snapshot, kind });
    }
    let rollback = command(message.rollback_cmd.as_ref());
    Ok(SnapshotConfig { active, max_snapshots: message.max_snapshots, rollback, snapshots })
}

pub fn volume(message: &wire::Volume, key: VolumeKey) -> Result<VolumeConfig, Reason> {
    let max_size_bytes = u64::try_from(message.maxsizebytes)
        .map_err(|_| Reason::NegativeSize { size_bytes: message.maxsizebytes })?;
    let origin = volume_origin(message.origin.as_ref())?;
    if origin == VolumeOrigin::Blank && max_size_bytes == 0 {
        return Err(Reason::NoSize);
    }
    Ok(VolumeConfig {
        key,
        origin,
        max_size_bytes,
        read_only: message.readonly,
        clear_text: message.clear_text,
        display_name: message.display_name.clone(),
    })
}

fn volume_origin(message: Option<&wire::VolumeContentOrigin>) -> Result<VolumeOrigin, Reason> {
    let number = message.map_or(0, |origin| origin.r#type);
    match (wire::VolumeContentOriginType::try_from(number), message) {
        (Ok(wire::VolumeContentOriginType::VcotBlank), _) => Ok(VolumeOrigin::Blank),
        (Ok(wire::VolumeContentOriginType::VcotDownload), Some(origin)) => {
            Ok(VolumeOrigin::Download { content_tree: id(&origin.download_content_tree_id)? })
        }
        _ => Err(Reason::UnknownOrigin { number }),
    }
}

pub fn content_tree(
    message: &wire::ContentTree,
    content_tree: ContentTreeId,
) -> Result<ContentTreeConfig, Reason> {
    Ok(ContentTreeConfig {
        content_tree,
        datastores: datastores_of(message)?,
        relative_url: message.url.clone(),
        format: Format::from_wire(message.iformat)
            .ok_or(Reason::UnknownFormat { number: message.iformat })?,
        sha256: sha256(&message.sha256)?,
        max_download_size_bytes: message.max_size_bytes,
        display_name: message.display_name.clone(),
    })
}

/// Older controllers name the one datastore in a field of its own.
fn datastores_of(message: &wire::ContentTree) -> Result<Vec<DatastoreId>, Reason> {
    let listed = message.ds_ids_list.iter();
    let old = Some(&message.ds_id).filter(|id| message.ds_ids_list.is_empty() && !id.is_empty());
    let datastores: Vec<DatastoreId> = listed.chain(old).map(|text| id(text)).collect::<Result<_, _>>()?;
    if datastores.is_empty() { Err(Reason::NoDatastore) } else { Ok(datastores) }
}

/// In either case on the wire, lower-case inside; empty when the controller gave none.
fn sha256(text: &str) -> Result<String, Reason> {
    let is_digest = text.len() == SHA256_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.is_empty() || is_digest {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Reason::InvalidSha256 { text: shown(text) })
}

pub fn datastore(message: &wire::DatastoreConfig, datastore: DatastoreId) -> Result<DatastoreConfig, Reason> {
    if message.fqdn.is_empty() {
        return Err(Reason::NoHost);
    }
    Ok(DatastoreConfig {
        datastore,
        kind: match wire::DsType::try_from(message.d_type) {
            Ok(wire::DsType::DsHttp) => DatastoreKind::Http,
            Ok(wire::DsType::DsHttps) => DatastoreKind::Https,
            _ => DatastoreKind::Unsupported(message.d_type),
        },
        fqdn: message.fqdn.clone(),
        path: message.dpath.clone(),
    })
}
