//! The style of our contract: buf's STANDARD rules, so that generated code reads well in every language.

use std::collections::BTreeMap;

use clone8s::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool,
    prost_types::{EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet, MessageOptions},
};

const PACKAGES: [&str; 2] = ["clone8s.v1", "clone8s.runtime.v1"];

/// Every break of the rules in the files of our packages.
fn lint(set: &FileDescriptorSet) -> Vec<String> {
    let mut found = Vec::new();
    // Who uses a message as request or response: each belongs to one call.
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in set.file.iter().filter(|file| PACKAGES.contains(&file.package())) {
        lint_file(file, &mut found);
        for service in &file.service {
            for method in &service.method {
                for message in [method.input_type(), method.output_type()] {
                    users
                        .entry(message.to_owned())
                        .or_default()
                        .push(method.name().to_owned());
                }
            }
        }
    }
    let shared = users.into_iter().filter(|(_, users)| users.len() > 1);
    found.extend(shared.map(|(message, users)| format!("{message} is shared by {}", users.join(" and "))));
    found
}

fn lint_file(file: &FileDescriptorProto, found: &mut Vec<String>) {
    let name = file.name();
    let package = file.package();
    let (folder, base) = name.rsplit_once('/').unwrap_or(("", name));
    let mut rule = |holds: bool, sentence: String| {
        if !holds {
            found.push(format!("{name}: {sentence}"));
        }
    };
    rule(
        folder == package.replace('.', "/"),
        format!("package {package} belongs into its own folder"),
    );
    rule(
        base.strip_suffix(".proto").is_some_and(is_lower_snake),
        "a file's name is lower_snake_case.proto".to_owned(),
    );
    rule(file.syntax() == "proto3", "the syntax is proto3".to_owned());
    for service in &file.service {
        let owner = service.name();
        rule(
            owner.ends_with("Service") && is_pascal(owner),
            format!("service {owner} must be PascalCase and end in Service"),
        );
        for method in &service.method {
            let call = method.name();
            rule(is_pascal(call), format!("call {call} must be PascalCase"));
            for (message, suffix) in [
                (method.input_type(), "Request"),
                (method.output_type(), "Response"),
            ] {
                let expected = format!(".{package}.{call}{suffix}");
                rule(
                    message == expected,
                    format!("{owner}/{call} must use {expected}, not {message}"),
                );
            }
        }
    }
    for set in &file.enum_type {
        lint_enum(set, &mut rule);
    }
    let mut messages: Vec<_> = file.message_type.iter().collect();
    while let Some(message) = messages.pop() {
        messages.extend(&message.nested_type);
        for set in &message.enum_type {
            lint_enum(set, &mut rule);
        }
        if message.options.as_ref().is_some_and(MessageOptions::map_entry) {
            continue;
        }
        let owner = message.name();
        rule(is_pascal(owner), format!("message {owner} must be PascalCase"));
        for field in &message.field {
            let field = field.name();
            rule(
                is_lower_snake(field),
                format!("field {owner}.{field} must be lower_snake_case"),
            );
        }
        for oneof in message
            .oneof_decl
            .iter()
            .filter(|oneof| !oneof.name().starts_with('_'))
        {
            let oneof = oneof.name();
            rule(
                is_lower_snake(oneof),
                format!("oneof {owner}.{oneof} must be lower_snake_case"),
            );
        }
    }
}

fn lint_enum(set: &EnumDescriptorProto, rule: &mut impl FnMut(bool, String)) {
    let owner = set.name();
    let prefix = format!("{}_", upper_snake(owner));
    rule(is_pascal(owner), format!("enum {owner} must be PascalCase"));
    for value in &set.value {
        let name = value.name();
        rule(
            name.starts_with(&prefix),
            format!("value {name} must start with {prefix}"),
        );
        rule(
            name.bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'),
            format!("value {name} must be UPPER_SNAKE_CASE"),
        );
        rule(
            (value.number() == 0) == (name == format!("{prefix}UNSPECIFIED")),
            format!("the zero of enum {owner}, and it alone, must be {prefix}UNSPECIFIED"),
        );
    }
}

fn is_pascal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn is_lower_snake(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('_')
        && !name.contains("__")
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn upper_snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_uppercase());
    }
    snake
}

#[test]
fn the_contract_follows_the_rules() {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    assert_eq!(lint(&set), [] as [&str; 0]);
}

#[test]
fn the_descriptor_set_is_whole() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let services = pool
        .services()
        .filter(|service| PACKAGES.contains(&service.package_name()))
        .count();
    assert!(services >= 8, "{services} services");
}

#[test]
fn each_rule_finds_what_breaks_it() {
    let source = r"
        syntax = 'proto3';
        package clone8s.v1;
        service Pods {
          rpc get_pod(Thing) returns (Thing);
        }
        message Thing { string badName = 1; oneof Choice { string a = 2; } }
        enum Color { RED = 0; COLOR_green = 1; }
    ";
    let folder = std::env::temp_dir().join(format!("clone8s-lint-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("Bad.proto"), source).unwrap();
    let set = protox::compile(["Bad.proto"], [&folder]).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let found = lint(&FileDescriptorSet::decode(set.encode_to_vec().as_slice()).unwrap()).join("\n");
    for part in [
        "belongs into its own folder",
        "a file's name is lower_snake_case.proto",
        "service Pods must be PascalCase and end in Service",
        "call get_pod must be PascalCase",
        "Pods/get_pod must use .clone8s.v1.get_podRequest, not .clone8s.v1.Thing",
        ".clone8s.v1.Thing is shared by get_pod and get_pod",
        "field Thing.badName must be lower_snake_case",
        "oneof Thing.Choice must be lower_snake_case",
        "value RED must start with COLOR_",
        "value COLOR_green must be UPPER_SNAKE_CASE",
        "the zero of enum Color, and it alone, must be COLOR_UNSPECIFIED",
    ] {
        assert!(found.contains(part), "{part:?} is missing from:\n{found}");
    }
}
