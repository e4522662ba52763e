#!/usr/bin/env bash
# The tutorial as a user of the package meets it: a wheel of the last commit, an empty environment, an empty folder, and
# the commands of docs/getting_started.md in their order. STEPS=600 trains as long as the page says.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unset VIRTUAL_ENV PYTHONPATH PYTHONHOME
mkdir "$scratch/source" "$scratch/empty"
git -C "$project" archive HEAD | tar -x -C "$scratch/source"
${PYTHON:-python3} -m venv "$scratch/env"
pip=("$scratch/env/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install -q -c "$project/constraints.txt" setuptools
"${pip[@]}" wheel -q --no-deps --no-build-isolation -w "$scratch" "$scratch/source"
"${pip[@]}" install -q -c "$project/constraints.txt" "$scratch"/cmems-*.whl
PATH=$scratch/env/bin:$PATH
cd "$scratch/empty"
awk '/^```bash$/ {on = 1; next} /^```$/ {on = 0} on' "$project/docs/getting_started.md" |
  sed "s/--steps 600/--steps ${STEPS:-20}/" >"$scratch/tutorial.sh"
bash -euo pipefail -x "$scratch/tutorial.sh"
echo "$(ls own/images | wc -l) scans, $(ls masks/*.nii.gz | wc -l) masks, from the wheel alone"
[[ $(ls own/images | wc -l) == $(ls masks/*.nii.gz | wc -l) ]]
