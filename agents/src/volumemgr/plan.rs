//! How a volume is to be stored, and where its content comes from. Pure: configurations in, a plan or a reason out.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_persist::PersistLayout;
use holdfast_types::{
    ContentTreeConfig, ContentTreeId, DatastoreConfig, DatastoreId, DatastoreKind, Format, VolumeConfig,
    VolumeOrigin, VolumeRecord, VolumeStage, first_incarnation,
};
use holdfast_volumehandlers::Placement;

use super::download::Content;
use super::retry::Failure;

/// The row a volume begins with.
pub fn new_record(
    config: &VolumeConfig,
    content: Option<&ContentTreeConfig>,
    layout: &PersistLayout,
    placement: &Placement,
) -> Result<VolumeRecord, Failure> {
    if let Some(content) = content
        && content.format == Format::Container
    {
        return Err(Failure::permanent(format!(
            "volume {} cannot be made from content tree {}: container content is not supported",
            config.key, content.content_tree
        )));
    }
    if config.origin == VolumeOrigin::Blank && config.max_size_bytes == 0 {
        return Err(Failure::permanent(format!("blank volume {} has no size", config.key)));
    }
    let (key, content_format) = (config.key, content.map(|content| content.format));
    let placed = placement
        .place(layout, !config.clear_text, (&key.volume, &key.generation), content_format)
        .map_err(|error| Failure::permanent(format!("volume {key}: {error}")))?;
    Ok(VolumeRecord {
        config: config.clone(),
        handler: placed.handler.to_owned(),
        format: placed.format,
        file_location: placed.location.display().to_string(),
        stage: VolumeStage::Creating,
        size_bytes: config.max_size_bytes,
        sha256: content.map(|content| content.sha256.clone()).unwrap_or_default(),
        incarnation: first_incarnation(),
    })
}

/// What is to be fetched for a content tree, or why nothing can be.
pub fn content_to_fetch(
    tree: &ContentTreeConfig,
    datastores: &BTreeMap<DatastoreId, Arc<DatastoreConfig>>,
) -> Result<Content, Failure> {
    let (mut urls, mut refusals) = (Vec::new(), Vec::new());
    for id in &tree.datastores {
        let datastore = datastores.get(id).ok_or_else(|| format!("datastore {id} is not configured"));
        match datastore.and_then(|datastore| base_url(datastore)) {
            Ok(base) => urls.push(format!("{base}/{}", tree.relative_url.trim_start_matches('/'))),
            Err(reason) => refusals.push(reason),
        }
    }
    if urls.is_empty() {
        let reasons = if refusals.is_empty() { "it names no datastore".into() } else { refusals.join("; ") };
        return Err(Failure::permanent(format!(
            "content tree {} cannot be fetched: {reasons}",
            tree.content_tree
        )));
    }
    Ok(Content {
        content_tree: tree.content_tree,
        urls,
        sha256: tree.sha256.to_ascii_lowercase(),
        max_size_bytes: tree.max_download_size_bytes,
    })
}

pub fn content_tree_of(config: &VolumeConfig) -> Option<ContentTreeId> {
    match config.origin {
        VolumeOrigin::Blank => None,
        VolumeOrigin::Download { content_tree } => Some(content_tree),
    }
}

/// `http://host:port/path`, with neither a doubled nor a trailing slash.
fn base_url(datastore: &DatastoreConfig) -> Result<String, String> {
    let id = datastore.datastore;
    match datastore.kind {
        DatastoreKind::Http => {}
        DatastoreKind::Https => {
            return Err(format!("datastore {id} is of kind https, which is not supported"));
        }
        DatastoreKind::Unsupported(kind) => {
            return Err(format!("datastore {id} is of kind {kind}, which is not supported"));
        }
    }
    if datastore.fqdn.starts_with("https://") {
        return Err(format!("datastore {id} is at {}, and https is not supported", datastore.fqdn));
    }
    let host = datastore.fqdn.strip_prefix("http://").unwrap_or(&datastore.fqdn).trim_end_matches('/');
    if host.is_empty() {
        return Err(format!("datastore {id} has no host"));
    }
    let path = datastore.path.trim_matches('/');
    let slash = if path.is_empty() { "" } else { "/" };
    Ok(format!("http://{host}{slash}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumemgr::testing::{content_tree, datastore, http_store, key, tree};

    fn config(origin: VolumeOrigin, max_size_bytes: u64) -> VolumeConfig {
        VolumeConfig {
            key: key(1, 2),
            origin,
            max_size_bytes,
            read_only: false,
            clear_text: true,
            display_name: String::new(),
        }
    }

    #[test]
    fn a_volume_is_stored_as_its_content_wants() {
        let (layout, files) = (PersistLayout::new("/persist"), Placement::Files);
        let blank = new_record(&config(VolumeOrigin::Blank, 5), None, &layout, &files).expect("a plan");
        assert!(
            blank.file_location.ends_with("#2.qcow2") && blank.file_location.starts_with("/persist/clear/")
        );
        let origin = VolumeOrigin::Download { content_tree: content_tree(1) };
        for (content, stored, handler) in [
            (Format::Qcow2, Format::Qcow2, "qcow2"),
            (Format::Vmdk, Format::Qcow2, "qcow2"),
            (Format::Raw, Format::Raw, "file"),
            (Format::Iso, Format::Iso, "file"),
        ] {
            let tree = ContentTreeConfig { format: content, ..tree(1, "") };
            let record = new_record(&config(origin, 0), Some(&tree), &layout, &files).expect("a plan");
            assert_eq!((record.format, record.handler.as_str()), (stored, handler));
        }
        let container = ContentTreeConfig { format: Format::Container, ..tree(1, "") };
        let refused =
            new_record(&config(origin, 0), Some(&container), &layout, &files).expect_err("a container");
        assert!(refused.summary.contains("container") && refused.is_permanent());
        let sizeless =
            new_record(&config(VolumeOrigin::Blank, 0), None, &layout, &files).expect_err("no size");
        assert!(sizeless.summary.contains(&key(1, 2).to_string()));
    }

    #[test]
    fn urls_are_put_together_whatever_the_slashes() {
        for (fqdn, path, relative, expected) in [
            ("store:80", "", "a.img", "http://store:80/a.img"),
            ("http://store", "/files/", "/a.img", "http://store/files/a.img"),
            ("store/", "x/y", "b/a.img", "http://store/x/y/b/a.img"),
        ] {
            let store = DatastoreConfig { fqdn: fqdn.into(), path: path.into(), ..http_store(1) };
            let tree = ContentTreeConfig { relative_url: relative.into(), ..tree(1, "AB") };
            let content = content_to_fetch(&tree, &[(store.datastore, store.into())].into()).expect("a URL");
            assert_eq!(content.urls, [expected]);
            assert_eq!(content.sha256, "ab");
        }
    }

    #[test]
    fn a_datastore_that_cannot_be_used_is_named_with_its_kind() {
        let refused = |store: DatastoreConfig| {
            let stores = [(store.datastore, store.into())].into();
            content_to_fetch(&tree(1, ""), &stores).expect_err("not supported").summary
        };
        let https = refused(DatastoreConfig { kind: DatastoreKind::Https, ..http_store(1) });
        assert!(https.contains("https") && https.contains(&datastore(1).to_string()), "{https}");
        let sftp = refused(DatastoreConfig { kind: DatastoreKind::Unsupported(4), ..http_store(1) });
        assert!(sftp.contains("kind 4"), "{sftp}");
        let missing = refused(http_store(9));
        assert!(missing.contains("is not configured"), "{missing}");
    }
}
