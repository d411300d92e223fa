package layers

// A hover is what an editor shows of a directive: see Schema.
type hover struct {
	text    string // what it does, in one or two sentences
	example string // a value, as YAML
}

// hovers has one for each directive, by its name.
var hovers = map[string]hover{
	"from":                  {"What the layer starts from: an image in a registry (docker) or in an OCI layout (oci), a tar file, nothing (scratch), or another layer (built).", "{type: docker, url: docker://docker.io/library/debian:12}"},
	"imports":               {"Files and folders that the scripts read, in /stacker/imports. With dest they are copied into the image instead; copy does it as COPY of a Dockerfile.", "[main.go, {path: app.conf, dest: /etc/app.conf, mode: \"0644\"}]"},
	"import":                {"Files and folders that the scripts read, in /stacker. Deprecated: write imports.", "main.go"},
	"overlay_dirs":          {"Folders of this machine that are laid over the root filesystem, each as a layer of the image.", "[{source: overlay, dest: /usr/local}]"},
	"run":                   {"The script that makes the layer. It runs in /bin/sh -xe unless its first line names an interpreter.", "apt-get update && apt-get install -y hello"},
	"build_env":             {"Environment variables of the scripts. The image does not have them: see environment.", "{CFLAGS: -O2}"},
	"build_env_passthrough": {"Regular expressions. Each variable of your environment whose full name matches one is passed to the scripts.", "[CI_.*, TERM]"},
	"build_user":            {"Whom run runs as, by name or number: USER or USER:GROUP of the image. Root by default.", "app"},
	"tmpfs":                 {"Folders in memory that the scripts see, empty at first and gone afterwards.", "/tmp"},
	"build_env_from_base":   {"With true the scripts see the environment of the image that the layer starts from, below build_env.", "true"},
	"binds":                 {"Paths of this machine that are mounted into the scripts. Without track they are writable, and the layer is built each time.", "[{source: vendor, dest: /vendor, track: true}]"},
	"secrets":               {"Values that the scripts see and nothing keeps. The command line gives them: --secret id=ID,src=FILE.", "[{id: token, env: TOKEN}]"},
	"caches":                {"Folders that are kept between builds and are not in the image, such as a compiler's cache.", "[{path: /root/.cache, sharing: locked}]"},
	"network":               {"What the scripts reach: host is the network of this machine, none is a loopback.", "none"},
	"generate_labels":       {"A script that runs after run. Each file that it leaves in /oci-labels becomes a label; its other changes are discarded.", "git describe >/oci-labels/version"},
	"environment":           {"Environment variables of the image, added to those of its base.", "{LANG: C.UTF-8}"},
	"labels":                {"Labels of the image, added to those of its base.", "{org.opencontainers.image.vendor: Example}"},
	"annotations":           {"Annotations of the image's manifest.", "{org.opencontainers.image.licenses: MIT}"},
	"volumes":               {"Paths where whoever runs the image mounts volumes.", "[/var/lib/data]"},
	"working_dir":           {"The folder in which the image's command starts.", "/srv"},
	"runtime_user":          {"The user, or user:group, that the image's command runs as.", "nobody"},
	"cmd":                   {"The command of the image, or the arguments of its entrypoint.", "[nginx, -g, daemon off;]"},
	"entrypoint":            {"The program of the image. It clears the cmd of the base.", "/usr/bin/tini --"},
	"full_command":          {"The whole command of the image: it becomes the entrypoint and clears cmd.", "[/usr/bin/app, --serve]"},
	"expose":                {"Ports that the image's program listens on, each with a protocol.", "[80, 53/udp, 8000-8010/tcp]"},
	"stop_signal":           {"The signal that ends the image's program.", "SIGQUIT"},
	"healthcheck":           {"How Docker and podman find out whether the program works, or none. A test that is a text is the shell's.", "{test: [curl, -f, http://localhost/], interval: 30s, retries: 3}"},
	"shell":                 {"What Docker runs commands with that are given as a text. The run of a stackerfile does not use it.", "[/bin/bash, -c]"},
	"on_build":              {"Dockerfile instructions for images that docker builds from this one.", "[COPY . /src]"},
	"os":                    {"The operating system of the image. This machine's by default.", "linux"},
	"arch":                  {"The processor architecture of the image, as Go names it. This machine's by default.", "arm64"},
	"bom":                   {"Deprecated and without effect.", "{}"},
	"build_only":            {"With true the layer has no image of its own. Other layers may start from it and import from it.", "true"},
}
