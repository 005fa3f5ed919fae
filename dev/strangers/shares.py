"""Per group: shares of strangers that turn by class for +d and -d, who its members are taken for, leaving."""
import pickle,glob,sys,numpy as np,time
from pathlib import Path
from parts import parts
from feat import victim_of
OUT=Path("/work/tmp/tr/f4"); OUT.mkdir(exist_ok=True)
f32=lambda X:X.astype(np.float32)
clip=lambda x:np.clip(np.rint(x),0,255).astype(np.uint8)
def one(f):
    g=pickle.load(open(f,"rb")); v=victim_of(g); X,y,K=g["images"],g["labels"],g["K"]; rng=np.random.default_rng(0)
    rows=parts(g); it=iter(rows); pres=np.unique(y); each=max(4,-(-360//max(1,len(pres)-1)))
    drawn={c:rng.permutation(np.flatnonzero(y==c))[:each] for c in pres}
    base={c:v.predict(X[i]) for c,i in drawn.items()}
    for i,groups in enumerate(g["classes"]):
        lab=groups[0].label; oth=[c for c in pres if c!=lab]
        idx=np.concatenate([drawn[c] for c in oth]); src=np.repeat(oth,[len(drawn[c]) for c in oth]); b=np.concatenate([base[c] for c in oth])==lab
        for j,s in enumerate(groups):
            r=next(it); ex,m=s.examples,s.members; mem,mate=ex[m],ex[~m]
            r["taken"]=np.asarray(g["taken"][i][j],float); r["oth"]=np.array(oth)
            if s.kind=="rest":
                pr=rows[rows.index(r)-1] if False else prev; r["p"],r["m"]=prev["m"],prev["p"]; r["leave_m"],r["leave_t"]=prev["leave_t"],prev["leave_m"]; continue
            d=f32(X[mem]).mean(0)-f32(X[mate]).mean(0)
            for name,sign in (("p",1),("m",-1)):
                gain=(v.predict(clip(f32(X[idx])+sign*d))==lab).astype(float)-b
                r[name]=np.array([max(0,gain[src==c].mean()) for c in oth])
            r["leave_m"]=float((v.predict(clip(X[mem]-d))!=lab).mean()); r["leave_t"]=float((v.predict(clip(X[mate]+d))!=lab).mean())
            prev=r
    pickle.dump(dict(rows=rows,name=Path(f).stem,p=g["judged"].p_value,K=K,overall=g["known"].overall,poisons=int((g["roles"]==1).sum())),open(OUT/Path(f).name,"wb"))
for f in sorted(glob.glob(f"/work/tmp/tr/sets4/{sys.argv[1]}.pkl")):
    if (OUT/Path(f).name).exists(): continue
    t=time.time(); one(f); print(Path(f).stem[:50],f"{time.time()-t:.1f}",flush=True)
