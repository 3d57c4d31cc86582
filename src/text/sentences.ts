// What users read of the commands on instances, Multipass's words wherever it has some. One table,
// so that the code, the tests and the documentation cannot say it differently. Keys begin with the
// command that says it; `{name}` is replaced by the value of that name, and by nothing in it again.

export const SENTENCES = {
  // Of several commands.
  "errors.several": "The following errors occurred:",
  "format.invalid": "Invalid format type given.",
  "arguments.none": "This command takes no arguments",
  "arguments.too-many": "Too many arguments supplied.",
  "arguments.all-and-name": "Cannot specify name when --all option set",
  "arguments.all-and-names": "Cannot specify names when --all option set",

  // What the store refuses, or finds.
  "store.relative": 'CALQUE_HOME is not an absolute path: "{value}"',
  "store.unknown": "None of CALQUE_HOME, XDG_DATA_HOME and HOME says where the store is",
  "store.refused": 'The store "{root}" cannot be used: {reason}',
  "store.failure": '"{path}": {reason}',
  "store.waiting": 'Waiting for {holder} to finish with "{path}"',
  "store.copying": "Copying: {copied} of {total}, {percent} %",
  "instance.missing": 'instance "{instance}" does not exist',
  "instance.deleted": 'instance "{instance}" is deleted',
  "instance.broken": 'instance "{instance}" is broken: {reason}',
  "problem.newer": "made by a newer Calque: {reason}",
  "instance.in-use": 'instance "{instance}" is in use',
  "instance.used-by": '"{instance}" is used by {holder}',
  "instance.invalid-name": "Invalid instance name: {name}",
  "instance.name-too-long": 'The name "{name}" is longer than {limit} characters',
  "instance.name-it": "give a shorter one with `--name`",
  "name.rule":
    "a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, " +
    "and is at most 63 characters long",
  "instance.exists": 'instance "{instance}" already exists',
  "instance.being-prepared": 'instance "{instance}" is being prepared',
  "snapshot.exists": "Snapshot already exists: {instance}.{snapshot}",
  "snapshot.invalid-name": 'Invalid snapshot name: "{snapshot}".',
  "snapshot.foreign":
    "Snapshot {instance}.{snapshot} was not taken by Calque: it has no place for a comment",
  "snapshot.broken": "snapshot {instance}.{snapshot} is broken: {reason}",
  "snapshot.mend-it":
    'its disk can be restored all the same; for a comment, put "{path}" back, from a copy',
  "snapshot.too-many":
    'Maximum number of snapshots exceeded: {highest} is the id of one in "{instance}"',
  "snapshot.missing": "No such snapshot: {instance}.{snapshot}",
  "snapshot.ambiguous": "Several snapshots are called {instance}.{snapshot}: {choices}",

  // What is told beside a result; each stands in `warning`.
  warning: "warning: {text}",
  "warning.copy": 'instance "{instance}" is a copy of "{original}": both have one identity',
  "warning.unknown": 'whether instance "{instance}" runs is not known: {reason}',
  "warning.foreign-file": '"{path}" in the store is no instance, and is left alone',
  "warning.overtaken":
    'instance "{instance}" was changed after an interrupted {operation}, which is dropped',
  "warning.history": 'the history of instance "{instance}" could not be written: {reason}',
  "warning.linked":
    'the disk of instance "{instance}" has another name too: remove that one, before somebody writes to it',
  "warning.unfinished": '"{path}" in the store could not be cleaned up: {reason}',

  "list.no-instances": "No instances found.",
  "list.no-snapshots": "No snapshots found.",
  "list.no-addresses": "IP addresses are not applicable in conjunction with listing snapshots",

  "info.all-deprecated":
    "Warning: the `--all` flag for the `info` command is deprecated. Please use `info` with no " +
    "positional arguments for the same effect.",
  "info.hint": "on image files, `{program} image info`",
  "info.mixed-csv": "Mixed snapshot and instance arguments are not supported with CSV format",

  "check.name": "Please provide the name of the instance to check.",
  "check.repair": "Invalid repair '{value}': need 'leaks' or 'all'",
  "check.in-use": "{Program} can only check stopped instances.",
  "check.hint": "on image files, `{program} image check`",
  "check.rebuild": "the reference counts have to be made anew",
  "check.rebuild-it": "`{program} check {instance} --repair all` does that",

  "path.name": "Please provide the name of the instance whose path to print.",

  "history.name": "Please provide the name of the instance whose history to print.",
  "history.empty": "No operations found.",

  // Lines beside a sentence.
  hint: "hint: {text}",
  "confirm.again": "Please answer Yes/no: ",
  "confirm.end": "Failed to read value",

  "snapshot.name": "Need the name of an instance to snapshot.",
  "snapshot.too-many-arguments": "Too many arguments supplied",
  "snapshot.in-use": "{Program} can only take snapshots of stopped instances.",
  "snapshot.taken": "Snapshot taken: {instance}.{snapshot}",

  "restore.name": "Need the name of an instance and snapshot to restore.",
  "restore.format":
    "Invalid format. Please specify the instance to restore and snapshot to use in the form " +
    "<instance>.<snapshot>.",
  "restore.in-use": "{Program} can only restore snapshots of stopped instances.",
  "restore.question":
    "Do you want to take a snapshot of {instance} before discarding its current state? (Yes/no): ",
  "restore.unasked":
    "Unable to query client for confirmation. Use '--destructive' to automatically discard " +
    "current machine state.",
  "restore.comment": "Before restoring {snapshot}",
  "restore.disk-alone": "the disk is restored; cpus, memory and mounts stay as they are",
  "restore.restored": "Snapshot restored: {instance}.{snapshot}",

  "clone.name": "Please provide the name of the source instance.",
  "clone.too-many-arguments": "Too many arguments.",
  "clone.in-use": "{Program} can only clone stopped instances.",
  "clone.invalid-name": "Invalid destination instance name: {name}",
  "clone.count": "Invalid count '{value}': need a number from 1 to 999999",
  "clone.strategy": "Invalid strategy '{value}': need 'auto', 'reflink' or 'copy'",
  "clone.snapshots": "Cannot use '--from-snapshot' and '--keep-snapshots' together",
  "clone.cloned": "Cloned from {source} to {target}.",
  "clone.copied": "{copied} copied, not shared: {reason}",
  "clone.share-not": "`--strategy auto` copies where blocks cannot be shared",
  "clone.addresses":
    // One literal, so that the placeholders in it are known.
    `Failed to generate an unique mac address after {attempts} attempts. Number of mac addresses \
in use: {inUse}`,

  "all.needed": "Name argument or --all is required",
  "delete.question":
    "Snapshots can only be purged (after deletion, they cannot be recovered). Are you sure you " +
    "want to continue? (Yes/no): ",
  "delete.unasked":
    "Snapshots can only be purged (after deletion, they cannot be recovered). Unable to query " +
    "client for confirmation. Please use the `--purge` flag if that is what you want",
  "delete.separately": "You can use a separate command to delete instances without purging them:",
  "delete.cancelled": "Cancelled.",
  "delete.of-deleted": "Cannot delete snapshots of deleted instances: {snapshots}",
  "settings.unknown": "Unrecognized settings key: '{key}'",
  "settings.no-instance": "No such instance",
  "settings.deleted": "Instance is deleted",
  "settings.snapshot": "Cannot access snapshot settings; instance: {instance}; reason: {reason}",
  "settings.snapshots": "Cannot access snapshot settings; reason: {reason}",
  "get.one": "Need at most one setting key.",
  "get.several":
    "Multiple settings not implemented yet. Please try again with one setting key or just the " +
    "`--keys` option for now.",
  "get.instance": "Cannot obtain instance settings; instance: {instance}; reason: {reason}",
  "set.one": "Need exactly one key-value pair (in <key>=<value> form).",
  "set.format": "Bad key-value format.",
  "set.instance": "Cannot update instance settings; instance: {instance}; reason: {reason}",
  "set.stopped": "Instance must be stopped for modification",
  "set.being-prepared": "instance is being prepared",
  "set.invalid": "Invalid setting '{key}={value}': {reason}",
  "set.cpus": "Need a positive integer (in decimal format) of minimum 1",
  "set.memory": "Memory less than 128M minimum not allowed",
  "set.disk": "Disk can only be expanded",
  "set.positive": "Need a positive size.",
  "set.size":
    // One literal, so that the placeholder in it is known.
    `{value} is not a valid memory size - need a non-negative integer (in base 10) or a decimal \
followed by K, M, or G (e.g. 1234B, 42MiB, 0.5G)`,
  "set.snapshot-name": "Invalid snapshot name.",

  "hardware.cpus": "Error: invalid CPU count '{value}', need a positive integer value.",
  "hardware.memory": "Invalid memory size value supplied: {value}.",
  "hardware.disk": "Invalid disk size value supplied: {value}.",
  "create.name": "Please provide the name of the instance to create.",
  "create.disk": "Please provide the size of the disk with --disk.",
  "create.created": "Created: {instance}",
  "import.file": "Please provide the file to import.",
  "import.format": "Invalid format '{value}': need 'qcow2' or 'raw'",
  "import.no-name": 'Cannot import "{file}": no instance can have the name of this file',
  "import.name-it": "give it a name with `--name`",
  "import.failed": 'Cannot import "{file}": {reason}',
  "import.backed": 'it is backed by "{backing}"',
  "import.flatten-it": "`--flatten` opens that file, and those behind it, and takes all of them",
  "import.not-qcow2": "it is not qcow2",
  "import.raw-it": "add `--format raw` if it is a raw disk",
  "import.imported": "Imported: {instance}",
  "import.within": "it is in the store already, and stays where it is",
  "import.loses": "its snapshots ({count}) would be lost; without `--move` they stay in the file",
  "import.upgraded": "the file is of version 2, and the image of the instance of version 3",
  "import.opened": "it was made of {files}",
  "import.left-snapshots": "the snapshots of the file ({count}) do not come along",
  "import.left": '"{path}" was imported, but not removed: {reason}',
  "import.one-file":
    'the instance and "{path}" may be one file: what is written to one is written to both',
  "export.names": "Please provide the name of an instance and a file.",
  "export.keep": "Cannot use '--keep-snapshots' with a snapshot or with '--format raw'",
  "export.in-use": "{Program} can only export stopped instances.",
  "export.failed": 'Cannot write "{file}": {reason}',
  "export.not-shared": "no blocks are shared: {reason}",
  "export.exported": "Exported {source} to {file} ({strategy}, {copied} copied).",
  "later.names": "For instances and snapshots alike, {rule}.",
  "later.verb": "{Program} has no `{verb}` yet; `{program} help path` says what can run instances",

  "trash.newest": 'of several deleted instances "{instance}", the newest was {done}: {trashed}',
  "recover.offer": "`{command}` brings it back beside that one",
  "recover.unneeded": 'instance "{instance}" does not need to be recovered',
  "recover.one-name": "Cannot use '--name' with more than one instance",
} as const;

type Sentences = typeof SENTENCES;
export type SentenceKey = keyof Sentences;

type Placeholders<Template extends string> =
  Template extends `${string}{${infer Name}}${infer Rest}` ? Name | Placeholders<Rest> : never;

type Values<Key extends SentenceKey> = [Placeholders<Sentences[Key]>] extends [never]
  ? []
  : [values: Record<Placeholders<Sentences[Key]>, string | number>];

/** The sentence, with a value for each of its placeholders. */
export function sentence<Key extends SentenceKey>(key: Key, ...[values]: Values<Key>): string {
  return SENTENCES[key].replace(/\{(\w+)\}/g, (_, name: string) =>
    String((values as Readonly<Record<string, string | number>>)[name]),
  );
}
