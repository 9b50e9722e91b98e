#!/usr/bin/env python3
"""Builds the images without Docker: deploy/images/*/Containerfile over a root made of one binary and what it links to.

  build.py [--llmd FILE] [--out DIR] [--tag TAG] [--model FILE] [--keep DIR] [NAME...]      names: scheduler cache worker llmd

Writes DIR/NAME.tar, an OCI archive (skopeo copy oci-archive:..., podman load, ctr images import), DIR/NAME.spdx.json
(SPDX 2.3, also inside as /usr/share/sbom/llmd.spdx.json) and prints each digest.  The same binary, libraries and
version give the same digest: files are sorted, owned by 0:0 (/cache by 65532:0), dated SOURCE_DATE_EPOCH (0), compressed without a time.
No package of the machine is changed and nothing is downloaded.
"""
# SPDX-License-Identifier: Apache-2.0
import argparse
import functools
import gzip
import hashlib
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
NAMES = ("scheduler", "cache", "worker", "llmd")
OWNERS = {"cache": (65532, 0)}  # uid 65532 writes there, and so does any uid of group 0 (OpenShift's)
CA = "/etc/ssl/certs/ca-certificates.crt"


def out_of(*argv):
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True).stdout


def libraries(binary):
    """Paths that the loader would open, as it names them, and the loader itself."""
    found = set(re.findall(r"(?:=> )?(/\S+) \(0x", out_of("ldd", binary)))
    return sorted(found)


@functools.lru_cache(maxsize=None)
def package_of(path):
    """Debian package, its version and its copyright file."""
    for name in (path, os.path.realpath(path), os.path.realpath(path).removeprefix("/usr"), "/usr" + os.path.realpath(path)):
        r = subprocess.run(["dpkg", "-S", name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if r.returncode == 0:
            package = r.stdout.splitlines()[0].rsplit(":", 1)[0].split(",")[0]
            name, version, source = out_of("dpkg-query", "-W", "-f", "${Package}\t${Version}\t${source:Package}", package).split("\t")
            return {"name": name, "version": version, "source": source}
    raise SystemExit(f"build.py: {path} is of no Debian package: the SBOM would have a hole")


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(text if isinstance(text, bytes) else text.encode())
    os.chmod(path, mode)


def copy(source, root, at=None, mode=0o644):
    target = root + (at or source)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(os.path.realpath(source), target)
    os.chmod(target, mode)


def sbom(version, packages, digest):
    rows = [{"name": "llmd", "SPDXID": "SPDXRef-llmd", "versionInfo": version, "downloadLocation": "NOASSERTION",
             "licenseConcluded": "Apache-2.0", "licenseDeclared": "Apache-2.0", "copyrightText": "NOASSERTION",
             "checksums": [{"algorithm": "SHA256", "checksumValue": digest}]}]
    rows += [{"name": p["name"], "SPDXID": "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", p["name"]), "versionInfo": p["version"],
              "downloadLocation": "NOASSERTION", "licenseConcluded": "NOASSERTION", "licenseDeclared": "NOASSERTION",
              "copyrightText": "NOASSERTION", "sourceInfo": "source package " + p["source"],
              "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                                "referenceLocator": f"pkg:deb/debian/{p['name']}@{p['version']}?arch={arch()}"}]} for p in packages]
    when = subprocess.run(["date", "-u", "-d", f"@{EPOCH}", "+%Y-%m-%dT%H:%M:%SZ"], stdout=subprocess.PIPE, text=True).stdout.strip()
    return json.dumps({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": "llmd",
        "documentNamespace": f"https://llmd.invalid/sbom/{version}/{digest[:16]}",
        "creationInfo": {"created": when, "creators": ["Tool: llmd deploy/images/build.py"]}, "packages": rows,
        "relationships": [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-llmd"}] +
                         [{"spdxElementId": "SPDXRef-llmd", "relationshipType": "DYNAMIC_LINK", "relatedSpdxElement": r["SPDXID"]}
                          for r in rows[1:] if r["name"] != "ca-certificates"]}, indent=1, sort_keys=True) + "\n"


def revision():
    """The commit that the tree is of, or None; what is not committed shows."""
    git = lambda *a: subprocess.run(["git", "-C", ROOT, *a], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    head = git("rev-parse", "HEAD")
    if head.returncode != 0:
        return None
    return head.stdout.strip() + ("-dirty" if git("status", "--porcelain", "-uno").stdout.strip() else "")


def arch():
    return {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def make_root(folder, binary, version, model):
    """base/ (everything), vllm/ (a link), model/ (the small model)."""
    base = os.path.join(folder, "base")
    stripped = os.path.join(folder, "llmd")
    subprocess.run(["strip", "-o", stripped, binary], check=True)
    copy(stripped, base, "/usr/bin/llmd", 0o755)
    os.unlink(stripped)
    packages = {}
    for lib in libraries(binary):
        copy(lib, base, mode=0o755)
        p = package_of(lib)
        packages[p["name"]] = p
    copy(CA, base)
    p = package_of("/usr/share/ca-certificates")
    packages[p["name"]] = p
    for name in packages:
        copy(f"/usr/share/doc/{name}/copyright", base)
    copy(os.path.join(ROOT, "LICENSE"), base, "/usr/share/doc/llmd/LICENSE")
    write(base + "/etc/passwd", "root:x:0:0:root:/:/sbin/nologin\nllmd:x:65532:65532:llmd:/cache:/sbin/nologin\n")
    write(base + "/etc/group", "root:x:0:\nllmd:x:65532:\n")
    write(base + "/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    for path, mode in (("/tmp", 0o1777), ("/cache", 0o775), ("/models", 0o755), ("/run", 0o755), ("/dev", 0o755), ("/proc", 0o755),
                       ("/sys", 0o755)):
        os.makedirs(base + path)
        os.chmod(base + path, mode)
    with open(base + "/usr/bin/llmd", "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    text = sbom(version, [packages[n] for n in sorted(packages)], digest)
    write(base + "/usr/share/sbom/llmd.spdx.json", text)
    os.makedirs(os.path.join(folder, "vllm/usr/bin"))
    os.symlink("llmd", os.path.join(folder, "vllm/usr/bin/vllm"))
    if model:
        copy(model, os.path.join(folder, "model"), "/models/smollm2-135m.gguf")
    return text


def containerfile(path):
    """Instructions of the few kinds that the files have; another one is an error and not passed over."""
    out = {"copy": [], "labels": {}, "env": [], "ports": []}
    with open(path) as f:
        for line in f:
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            word, rest = line.split(None, 1)
            if word == "COPY":
                source, target = rest.split()
                assert target == "/", line
                out["copy"].append(source.rstrip("/"))
            elif word == "LABEL":
                out["labels"].update(p.split("=", 1) for p in shlex.split(rest))
            elif word == "ENV":
                out["env"] += shlex.split(rest)
            elif word == "EXPOSE":
                out["ports"] += rest.split()
            elif word in ("USER", "WORKDIR"):
                out[word.lower()] = rest
            elif word in ("ENTRYPOINT", "CMD"):
                out[word.lower()] = json.loads(rest)
            elif line != "FROM scratch":
                raise SystemExit(f"build.py: {path}: {word} is not known here")
    return out


def layer(folders):
    """An uncompressed tar of the folders' union."""
    found = {}
    for folder in folders:
        for at, subs, files in os.walk(folder):
            for n in subs + files:
                path = os.path.join(at, n)
                found[os.path.relpath(path, folder)] = path
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(found):
            info = tar.gettarinfo(found[name], name)
            info.uid, info.gid = OWNERS.get(name, (0, 0))
            info.uname = info.gname = ""
            info.mtime = EPOCH
            if info.isreg():
                with open(found[name], "rb") as f:
                    tar.addfile(info, f)
            else:
                tar.addfile(info)
    return raw.getvalue()


def image(path, root, version, tag, out):
    c = containerfile(path)
    raw = layer([os.path.join(root, s) for s in c["copy"]])
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=6, mtime=0) as z:
        z.write(raw)
    blobs = {}

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"digest": "sha256:" + digest, "size": len(data)}

    dump = lambda o: json.dumps(o, sort_keys=True, separators=(",", ":")).encode()
    labels = {**c["labels"], "org.opencontainers.image.version": version}
    if (commit := revision()) is not None:
        labels["org.opencontainers.image.revision"] = commit
    created = subprocess.run(["date", "-u", "-d", f"@{EPOCH}", "+%Y-%m-%dT%H:%M:%SZ"], stdout=subprocess.PIPE, text=True).stdout.strip()
    config = {"architecture": arch(), "os": "linux", "created": created,
              "config": {"User": c["user"], "Env": c["env"], "WorkingDir": c["workdir"], "Entrypoint": c["entrypoint"], "Cmd": c["cmd"],
                         "Labels": labels, "ExposedPorts": {p + "/tcp": {} for p in c["ports"]}},
              "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(raw).hexdigest()]},
              "history": [{"created": created, "created_by": "llmd deploy/images/build.py"}]}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **blob(dump(config))},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **blob(packed.getvalue())}]}
    title = labels["org.opencontainers.image.title"]
    top = {"mediaType": manifest["mediaType"], **blob(dump(manifest)), "platform": {"architecture": arch(), "os": "linux"},
           "annotations": {"io.containerd.image.name": f"localhost/{title}:{tag}", "org.opencontainers.image.ref.name": tag}}
    archive = os.path.join(out, f"{title}.tar")
    with tarfile.open(archive + ".new", "w", format=tarfile.USTAR_FORMAT) as tar:
        def add(n, data):
            info = tarfile.TarInfo(n)
            info.size, info.mtime = len(data), EPOCH
            tar.addfile(info, io.BytesIO(data))
        add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add("index.json", dump({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [top]}))
        for digest in sorted(blobs):
            add("blobs/sha256/" + digest, blobs[digest])
    os.replace(archive + ".new", archive)
    print(f"localhost/{title}:{tag} {top['digest']} {len(raw) / 1e6:.1f} MB ({len(packed.getvalue()) / 1e6:.1f} MB packed) {archive}")
    return title


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--llmd", default=os.path.join(ROOT, "build/src/cmd/llmd"))
    p.add_argument("--out", default=os.path.join(ROOT, "build-images"))
    p.add_argument("--tag")
    p.add_argument("--model", help="smollm2-135m's file, for the image llmd; default: llmd model fetch")
    p.add_argument("--keep", metavar="DIR", help="also leave what the images are made of there")
    p.add_argument("names", nargs="*", default=NAMES)
    o = p.parse_args()
    for n in o.names:
        if n not in NAMES:
            p.error(f"{n} is no image; there are {' '.join(NAMES)}")
    if not os.path.exists(o.llmd):
        p.error(f"{o.llmd} is not built: make")
    version = out_of(o.llmd, "version").split()[1]
    model = o.model
    if "llmd" in o.names and not model:
        model = out_of(o.llmd, "model", "fetch", "smollm2-135m").strip().splitlines()[-1]
    os.makedirs(o.out, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=o.out) as root:
        bill = make_root(root, o.llmd, version, model)
        for n in o.names:
            title = image(os.path.join(HERE, n, "Containerfile"), root, version, o.tag or version, o.out)
            write(os.path.join(o.out, f"{title}.spdx.json"), bill)
        if o.keep:
            shutil.copytree(root, o.keep, symlinks=True)


if __name__ == "__main__":
    main()
