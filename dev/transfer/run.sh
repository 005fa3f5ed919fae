. /work/venv/bin/activate; cd /work/frz; export PYTHONPATH=$PWD:$PWD/plugins GOMP_SPINCOUNT=1000 OMP_NUM_THREADS=1
L=/work/main/leaderboards; B=/work/tmp/board; cd /work/tmp/g
g() { python -m bdbench grid $1 --out $2 --data-root /work/data --workers 2 > /work/tmp/g/$3.log 2>&1; date >> /work/tmp/g/done; echo $3 >> /work/tmp/g/done; }
g $L/digits/grid.toml $B/digits digits
g $L/fresh/grid.toml $B/fresh fresh
g det_digits.toml $B/det det
g c1.toml $B/controls c1
g c2.toml $B/controls c2
