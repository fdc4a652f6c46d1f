//! Variables and volumes of config maps, secrets and the pod itself.

use super::*;
use crate::v1::{
    ConfigMapVolumeSource, DownwardApiVolumeFile, DownwardApiVolumeSource, EnvFromSource, EnvVarSource,
    KeyToPath, ObjectFieldSelector, env_var_source,
};

#[test]
fn what_a_pod_is_told_exists_and_has_a_place() {
    let field = |path: &str| ObjectFieldSelector {
        field_path: path.into(),
        ..ObjectFieldSelector::default()
    };
    let found = after(|spec| {
        let app = &mut spec.containers[0];
        app.env_from = vec![EnvFromSource::default()];
        app.env = vec![EnvVar {
            name: "A".into(),
            value: "1".into(),
            value_from: Some(EnvVarSource {
                source: Some(env_var_source::Source::FieldRef(field("status.podIp"))),
            }),
        }];
        spec.volumes = vec![
            Volume {
                name: "map".into(),
                source: Some(Source::ConfigMap(ConfigMapVolumeSource {
                    name: "Settings".into(),
                    items: vec![KeyToPath {
                        key: "a".into(),
                        path: "../b".into(),
                        mode: Some(0o1777),
                    }],
                    ..ConfigMapVolumeSource::default()
                })),
            },
            Volume {
                name: "self".into(),
                source: Some(Source::DownwardApi(DownwardApiVolumeSource {
                    items: vec![DownwardApiVolumeFile {
                        path: "app".into(),
                        field_ref: Some(field("metadata.labels['app']")),
                        ..DownwardApiVolumeFile::default()
                    }],
                    default_mode: None,
                })),
            },
        ];
    });
    let fields: Vec<_> = found
        .iter()
        .map(|words| words.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        fields,
        [
            "spec.volumes[0].configMap.name",
            "spec.volumes[0].configMap.items[0].path",
            "spec.volumes[0].configMap.items[0].mode",
            "spec.containers[0].envFrom[0]",
            "spec.containers[0].env[0].valueFrom",
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath",
        ]
    );
    assert!(
        found[5].contains("did you mean \"status.podIP\"?"),
        "{}",
        found[5]
    );
}
