import numpy as np
from pathlib import Path
from PIL import Image
from sklearn.datasets import load_digits
D=load_digits(); X=(D.images/16*255).round().astype(np.uint8); y=D.target
def make(name, seed, keep):
    """keep: label -> share kept"""
    rng=np.random.default_rng(seed); root=Path(f"/work/tmp/tr/lay/{name}")
    for c,share in keep.items():
        idx=rng.permutation(np.flatnonzero(y==c)); test,train=idx[:35],idx[35:]; train=train[:max(8,int(len(train)*share))]
        for part,ii in (("train",train),("test",test)):
            f=root/part/str(c); f.mkdir(parents=True,exist_ok=True)
            for i in ii: Image.fromarray(X[i]).save(f/f"{i}.png")
lines=[]
for k,seed in enumerate(range(600,624)):
    rng=np.random.default_rng(seed)
    kind=["tail","large","few","tail"][k%4]
    perm=rng.permutation(10)
    if kind=="tail": keep={int(c):.72**i for i,c in enumerate(perm)}
    elif kind=="large": keep={int(c):(1.0 if i==0 else .25) for i,c in enumerate(perm)}
    else: keep={int(c):1.0 for c in perm[:[2,3,5,4][(k//4)%4]]}
    make(f"l{seed}",seed,keep)
    atk = "none" if k%3!=2 else ["blend:rate=0.03,target=seed","badnets:rate=0.02,target=seed"][(k//3)%2]
    lines.append(f"{atk} {seed} imagefolder /work/tmp/tr/lay/l{seed} {kind}")
open("lay.txt","w").write("\n".join(lines))
