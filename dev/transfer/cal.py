import pickle,numpy as np,glob
from sklearn.linear_model import LogisticRegression
from scipy import stats
from bdbench_datamodel import evidence as ev
from feat2 import parts
from pathlib import Path
D=[]
for f in sorted(glob.glob("/work/tmp/tr/sets4/*.pkl")):
    g=pickle.load(open(f,"rb")); P=parts(g["classes"],g["effects"],g["known"]); i=0; rows=[]
    for gr,ef,T in zip(g["classes"],g["effects"],g["transfers"]):
        for q,e,t in zip(gr,ef,T):
            m=int(q.members.sum()); rows.append(dict(P[i],t=float(t),kind=q.kind,label=q.label,small=min(m,len(q.members)-m),n=m,pois=int((g["roles"][q.group]==1).sum()),cp=int(((g["roles"]==1)&(g["labels"]==q.label)).sum()))); i+=1
    n=Path(f).stem; fam="noise" if "noise" in n else "lay" if n.startswith("lay") else n.split("-")[0][:6]
    D.append(dict(name=n,fam=fam,rows=rows,clean=g["attack"]=="none",K=len(g["classes"]),p=g["judged"].p_value))
R=[(s,r) for s in D for r in s["rows"]]
y=np.array([r["cp"]>0 and r["pois"]/r["n"]>.5 for s,r in R]); neg=np.array([r["cp"]==0 and r["kind"]!="rest" for s,r in R]); k=y|neg
X=np.c_[[np.clip(r["beyond"],-4,4) for s,r in R],[min(r["deep"],6) for s,r in R],[np.log(r["t"]+.02) for s,r in R],[np.log(r["small"]) for s,r in R]]
f=np.array([s["fam"] for s,r in R]); w=np.zeros(len(R))
for n in set(f):
    for c in (0,1):
        m=(f==n)&k&(y==c)
        if m.sum(): w[m]=1/m.sum()
w*=k.sum()/w[k].sum()
lr=LogisticRegression(C=10,max_iter=5000).fit(X[k],y[k],sample_weight=w[k])
def report(coef,b,name):
    e=X@coef+b; res={}
    for (s,r),v in zip(R,e): res.setdefault(s["name"],{}).setdefault(r["label"],[]).append(v)
    mx={s["name"]:max(max(v) for v in res[s["name"]].values()) for s in D}
    eq=[s for s in D if s["clean"] and s["fam"] not in("lay","noise")]
    v=np.array([mx[s["name"]] for s in eq]); loc,sc=stats.gumbel_r.fit(v); q5,q9=np.quantile(v,[.5,.9]); sc2=(q9-q5)/(2.2504-.3665); loc2=q5-.3665*sc2
    thr=loc+2.97*sc
    adj=lambda s:mx[s["name"]]-sc*np.log(s["K"]/10)
    print(name,np.round(coef,2),round(b,2),"n",len(eq),"gumbel ml %.2f %.2f q %.2f %.2f thr %.2f"%(loc,sc,loc2,sc2,thr),"alarms eq",sum(adj(s)>thr for s in eq),"lay",sum(adj(s)>thr for s in D if s["clean"] and s["fam"]=="lay"),"noise",sum(adj(s)>thr for s in D if s["fam"]=="noise"),
      "found",sum(adj(s)>thr for s in D if not s["clean"]),"of",sum(not s["clean"] for s in D), {n:(sum(adj(s)>thr for s in D if not s["clean"] and s["fam"]==n),sum(not s["clean"] for s in D if s["fam"]==n)) for n in sorted(set(f))})
    print("  clean by fam",{n:np.round(sorted(mx[s["name"]] for s in eq if s["fam"]==n),1).tolist() for n in ("digits","imagef","mnist5")})
    return mx,thr
report(lr.coef_[0],lr.intercept_[0],"refit")
report(np.array([1.23,.88,4.35,4.35*.38]),1.77,"now")
old=report(np.array([2.08,2.37,0,0]),-3.07,"before")
